package sandbox

import "fmt"

var networkNames = [...]string{"default", "host", "none"}

func (n Network) String() string {
	if n.valid() {
		return networkNames[n]
	}
	return fmt.Sprintf("Network(%d)", int(n))
}

func (n Network) valid() bool { return n >= 0 && int(n) < len(networkNames) }

var securityNames = [...]string{"sandboxed", "insecure"}

func (s Security) String() string {
	if s.valid() {
		return securityNames[s]
	}
	return fmt.Sprintf("Security(%d)", int(s))
}

func (s Security) valid() bool { return s >= 0 && int(s) < len(securityNames) }
