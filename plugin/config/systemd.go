package config

import "strconv"

// Systemd is what a service manager passes to the daemon.
type Systemd struct {
	// NotifySocket is where the daemon says that it is ready; "" is nowhere.
	NotifySocket string
	// Sockets is how many open sockets were passed, from file descriptor 3 on.
	Sockets int
}

// Systemd reads what was passed to the process with the given id. Children
// inherit the variables, so sockets are those of the named process only.
func (e Environment) Systemd(pid int) Systemd {
	s := Systemd{NotifySocket: e.get("NOTIFY_SOCKET", "")}
	if e.get("LISTEN_PID", "") != strconv.Itoa(pid) {
		return s
	}
	if n, err := strconv.Atoi(e.get("LISTEN_FDS", "")); err == nil && n > 0 {
		s.Sockets = n
	}
	return s
}
