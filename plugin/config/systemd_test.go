package config

import "testing"

func TestSystemd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  Environment
		want Systemd
	}{
		{environment(), Systemd{}},
		{environment("NOTIFY_SOCKET=/run/n", "LISTEN_PID=7", "LISTEN_FDS=2"), Systemd{"/run/n", 2}},
		{environment("LISTEN_PID=8", "LISTEN_FDS=2"), Systemd{}},
		{environment("LISTEN_PID=7", "LISTEN_FDS=x"), Systemd{}},
		{environment("LISTEN_PID=7", "LISTEN_FDS=-1"), Systemd{}},
	} {
		if got := c.env.Systemd(7); got != c.want {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
	}
}
