// Command kilnd is the build daemon. Called as buildkitd it takes buildkitd's
// flags, variables and configuration.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/containerd/log"
	"github.com/kiln-build/kiln/plugin"
	"github.com/kiln-build/kiln/plugin/config"
	"github.com/kiln-build/kiln/plugin/control"
)

// version is set by the linker.
var version = "unknown"

// gcPercent is how much garbage there may be for what is in use: half of Go's
// default. A daemon is idle most of the time, and what it takes in memory others
// miss; its own work is little of what a build costs.
const gcPercent = 50

// level is the release of BuildKit whose API is served.
const level = "v0.33.1"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ignoreAlone()
	if len(os.Args) == 3 && os.Args[1] == plugin.LazyCommand {
		ctx, _ := signals()
		return plugin.ServeLazy(ctx, os.Args[2])
	}
	env := config.ProcessEnvironment()
	inv, err := config.Parse(os.Args, env)
	if err != nil {
		return err
	}
	v := versionInfo()
	switch {
	case inv.Help != "":
		fmt.Print(inv.Help)
		return nil
	case inv.Version:
		fmt.Println(inv.Program, v.Package, v.Version, v.Revision)
		return nil
	}
	if err := plugin.SetLog(inv.Config.Log); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, force := signals()
	for _, w := range inv.Warnings {
		log.G(ctx).Warn(w)
	}
	d, err := plugin.Open(ctx, inv.Config, v)
	if err != nil {
		return err
	}
	if err = d.OwnTempMounts(ctx); err == nil {
		err = d.Serve(ctx, force, env.Systemd(os.Getpid()))
	}
	return errors.Join(err, d.Close(force))
}

// signals gives a context that the first signal to stop ends, and one that the
// second one ends.
func signals() (stop, force context.Context) {
	received := make(chan os.Signal, 2)
	signal.Notify(received, syscall.SIGTERM, syscall.SIGINT)
	stop, cancelStop := context.WithCancel(context.Background())
	force, cancelForce := context.WithCancel(context.Background())
	go func() {
		<-received
		cancelStop()
		<-received
		cancelForce()
	}()
	return stop, force
}

// ignoreAlone keeps to this process that it ignores SIGHUP, if nohup(1) has started it:
// others inherit that, and the programs of builds could neither get nor trap the signal.
func ignoreAlone() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // nobody reads
	}
}

// versionInfo says what this is: the level of BuildKit with kiln's own version,
// and the commit it was built from.
func versionInfo() control.Version {
	v := control.Version{
		Package: "github.com/kiln-build/kiln",
		Version: level + "+kiln." + strings.NewReplacer("+", ".", "_", "-").Replace(version),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	return v
}
