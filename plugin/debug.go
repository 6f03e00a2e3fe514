package plugin

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/log"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serveDebug serves metrics and profiles, if that is configured, until stop.
func (d *Daemon) serveDebug(ctx context.Context) (stop func(), _ error) {
	if d.cfg.DebugAddress == "" {
		return func() {}, nil
	}
	l, err := listenDebug(d.cfg.DebugAddress)
	if err != nil {
		return nil, fmt.Errorf("debugAddress %s: %w", d.cfg.DebugAddress, err)
	}
	server := &http.Server{Handler: d.debugHandler(), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.G(ctx).WithError(err).Error("serving metrics and profiles")
		}
	}()
	return func() {
		server.Close()
		<-done
	}, nil
}

// listenDebug takes HOST:PORT, tcp://HOST:PORT or unix://PATH.
func listenDebug(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return listenUnix(path, "", "")
	}
	return net.Listen("tcp", strings.TrimPrefix(address, "tcp://"))
}

func (d *Daemon) debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	mux.Handle("/debug/vars", expvar.Handler())
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/gc", func(http.ResponseWriter, *http.Request) { debug.FreeOSMemory() })
	return mux
}
