package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// DNS replaces parts of the host's resolv.conf; empty parts are the host's.
type DNS struct {
	// Nameservers are textual addresses.
	Nameservers []string
	Options     []string
	Search      []string
}

const (
	hostResolvConf = "/etc/resolv.conf"
	// resolvedConf is where systemd-resolved, which listens on resolvedAddr,
	// keeps the name servers that it asks itself.
	resolvedConf = "/run/systemd/resolve/resolv.conf"
	resolvedAddr = "127.0.0.53"
)

// publicNameservers are used, as Docker and BuildKit do, by a process on a network
// of its own when the host has none but local ones.
var publicNameservers = []string{"8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"}

// hostsFile is the content of /etc/hosts.
func hostsFile(hostname string, extra []Host) string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname)
	for _, h := range extra {
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, h.Name)
	}
	return b.String()
}

// resolvConf is what matters of a resolv.conf; other holds the lines of other
// keywords.
type resolvConf struct {
	nameservers, search, options, other []string
}

func parseResolvConf(text string) resolvConf {
	var rc resolvConf
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], ";") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			rc.nameservers = append(rc.nameservers, fields[1])
		case "search", "domain":
			rc.search = fields[1:]
		case "options":
			rc.options = append(rc.options, fields[1:]...)
		default:
			rc.other = append(rc.other, strings.Join(fields, " "))
		}
	}
	return rc
}

func (rc resolvConf) String() string {
	var b strings.Builder
	for _, ns := range rc.nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", ns)
	}
	if len(rc.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(rc.search, " "))
	}
	if len(rc.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(rc.options, " "))
	}
	for _, line := range rc.other {
		fmt.Fprintln(&b, line)
	}
	return b.String()
}

// override puts d's parts in the place of the host's.
func (rc resolvConf) override(d DNS) resolvConf {
	if len(d.Nameservers) > 0 {
		rc.nameservers = d.Nameservers
	}
	if len(d.Search) > 0 {
		rc.search = d.Search
	}
	if len(d.Options) > 0 {
		rc.options = d.Options
	}
	return rc
}

// isolated drops the name servers that another network namespace can't reach.
func (rc resolvConf) isolated() resolvConf {
	var reachable []string
	for _, ns := range rc.nameservers {
		if addr, err := netip.ParseAddr(ns); err == nil && !addr.IsLoopback() {
			reachable = append(reachable, ns)
		}
	}
	if len(reachable) == 0 {
		reachable = publicNameservers
	}
	rc.nameservers = reachable
	return rc
}

// resolvFile is the content of /etc/resolv.conf for a process on net, made from the
// files of the host whose root is at hostRoot ("/").
func resolvFile(hostRoot string, net network, dns DNS) (string, error) {
	rc, err := readResolvConf(filepath.Join(hostRoot, hostResolvConf))
	if err != nil {
		return "", err
	}
	if net.host {
		return rc.override(dns).String(), nil
	}
	if len(rc.nameservers) == 1 && rc.nameservers[0] == resolvedAddr {
		if rc, err = readResolvConf(filepath.Join(hostRoot, resolvedConf)); err != nil {
			return "", err
		}
	}
	if len(dns.Nameservers) == 0 {
		rc = rc.isolated()
	}
	return rc.override(dns).String(), nil
}

func readResolvConf(file string) (resolvConf, error) {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return resolvConf{}, fmt.Errorf("name servers of the host: %w", err)
	}
	return parseResolvConf(string(text)), nil
}

// check says whether the addresses are ones.
func (d DNS) check() error {
	for _, ns := range d.Nameservers {
		if _, err := netip.ParseAddr(ns); err != nil {
			return fmt.Errorf("DNS name server: %w", err)
		}
	}
	return nil
}
