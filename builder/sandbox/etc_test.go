package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

func TestResolvFile(t *testing.T) {
	const host = "# comment\n; another\ndomain old.example\nsearch a.example b.example\nnameserver 10.0.0.1\nnameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\noptions ndots:2\noptions edns0\nsortlist 10.0.0.0\nnonsense\n"
	own, isolated := network{host: true}, network{}
	for name, c := range map[string]struct {
		host, resolved string
		net            network
		dns            DNS
		want           string
	}{
		"host network": {
			host: host, net: own,
			want: "nameserver 10.0.0.1\nnameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:2 edns0\nsortlist 10.0.0.0\n",
		},
		"own network": {
			host: host, net: isolated,
			want: "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:2 edns0\nsortlist 10.0.0.0\n",
		},
		"configured": {
			host: host, net: isolated, dns: DNS{Nameservers: []string{"127.0.0.9"}, Search: []string{"c"}, Options: []string{"rotate"}},
			want: "nameserver 127.0.0.9\nsearch c\noptions rotate\nsortlist 10.0.0.0\n",
		},
		"only local servers": {
			host: "nameserver 127.0.0.1\n", net: isolated,
			want: "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n",
		},
		"systemd-resolved": {
			host: "nameserver 127.0.0.53\noptions edns0\n", resolved: "nameserver 192.168.1.1\n", net: isolated,
			want: "nameserver 192.168.1.1\n",
		},
		"systemd-resolved, host network": {
			host: "nameserver 127.0.0.53\n", resolved: "nameserver 192.168.1.1\n", net: own,
			want: "nameserver 127.0.0.53\n",
		},
		"no file": {net: own},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range map[string]string{hostResolvConf: c.host, resolvedConf: c.resolved} {
				if text == "" {
					continue
				}
				file = filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := resolvFile(root, c.net, c.dns); err != nil || got != c.want {
				t.Errorf("got %q, want %q, error %v", got, c.want, err)
			}
		})
	}
}

func TestHostsFile(t *testing.T) {
	got := hostsFile("h", []Host{{Name: "n", IP: "1.2.3.4"}})
	if want := "127.0.0.1\tlocalhost h\n::1\tlocalhost ip6-localhost ip6-loopback\n1.2.3.4\tn\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDNSCheck(t *testing.T) {
	if err := (DNS{Nameservers: []string{"::1", "1.1.1.1"}}).check(); err != nil {
		t.Error(err)
	}
	if err := (DNS{Nameservers: []string{"dns.example"}}).check(); err == nil {
		t.Error("a name was accepted as an address")
	}
}
