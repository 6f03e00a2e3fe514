package bridge

import (
	"context"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// firewalld rejects what comes from interfaces that it doesn't know. By D-Bus it is
// asked to put a bridge into its zone for those that everything may come from, where the
// bridge stays until firewalld is told to reload. It is called on the bus that connect
// gives.
type firewalld struct {
	connect func(ctx context.Context) (*dbus.Conn, error)
}

// theFirewalld is the machine's.
var theFirewalld = firewalld{connect: func(ctx context.Context) (*dbus.Conn, error) {
	return dbus.ConnectSystemBus(dbus.WithContext(ctx))
}}

// See firewalld.dbus(5) for its methods.
const (
	firewalldName = "org.fedoraproject.FirewallD1"
	firewalldPath = "/org/fedoraproject/FirewallD1"
	firewalldZone = firewalldName + ".zone"
	trusted       = "trusted"
)

// firewalldTimeout bounds all that it is asked at one time.
const firewalldTimeout = 2 * time.Second

// trust has it let through what comes from a bridge.
func (f firewalld) trust(ctx context.Context, bridge string) error {
	return f.ask(ctx, bridge, func(zone string, it dbus.BusObject) *dbus.Call {
		if zone == trusted {
			return nil
		}
		return it.CallWithContext(ctx, firewalldZone+".changeZoneOfInterface", 0, trusted, bridge)
	})
}

// forget undoes that.
func (f firewalld) forget(ctx context.Context, bridge string) error {
	return f.ask(ctx, bridge, func(zone string, it dbus.BusObject) *dbus.Call {
		if zone != trusted {
			return nil
		}
		return it.CallWithContext(ctx, firewalldZone+".removeInterface", 0, trusted, bridge)
	})
}

// ask looks up in which zone a bridge is, and makes a call that depends on it, if
// firewalld runs.
func (f firewalld) ask(ctx context.Context, bridge string, call func(zone string, it dbus.BusObject) *dbus.Call) error {
	ctx, cancel := context.WithTimeout(ctx, firewalldTimeout)
	defer cancel()
	bus, err := f.connect(ctx)
	if err != nil {
		return nil // a machine without the bus has no firewalld either
	}
	defer bus.Close()
	var runs bool
	if err := bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, firewalldName).Store(&runs); err != nil || !runs {
		return err
	}
	it := bus.Object(firewalldName, firewalldPath)
	var zone string
	if err := it.CallWithContext(ctx, firewalldZone+".getZoneOfInterface", 0, bridge).Store(&zone); err != nil {
		return fmt.Errorf("firewalld: %w", err)
	}
	if c := call(zone, it); c != nil && c.Err != nil {
		return fmt.Errorf("firewalld: %w", c.Err)
	}
	return nil
}
