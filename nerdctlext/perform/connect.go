package perform

import (
	"context"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/kiln-build/kiln/nerdctlext"
	"github.com/kiln-build/kiln/nerdctlext/dial"
)

// Connection holds the flags that say how a daemon is reached.
type Connection struct {
	Address string
	TLS     dial.TLS
	Timeout int // seconds
	Wait    bool
}

// Register adds the flags. Address keeps its value as the default.
func (c *Connection) Register(flags *pflag.FlagSet) {
	flags.StringVar(&c.Address, "addr", c.Address, "address of the daemon")
	flags.StringVar(&c.TLS.ServerName, "tlsservername", "", "name of the server to verify, its host if empty")
	flags.StringVar(&c.TLS.CA, "tlscacert", "", "certificates of the authorities to trust")
	flags.StringVar(&c.TLS.Cert, "tlscert", "", "client certificate")
	flags.StringVar(&c.TLS.Key, "tlskey", "", "key of the client certificate")
	flags.StringVar(&c.TLS.Dir, "tlsdir", "", "directory of ca.pem, cert.pem and key.pem (or ca.crt, tls.crt and tls.key)")
	flags.IntVar(&c.Timeout, "timeout", 5, "seconds that one attempt to connect may take")
	flags.BoolVar(&c.Wait, "wait", false, "wait until the daemon answers")
}

// Open connects. The caller closes the connection.
func (c *Connection) Open(ctx context.Context, env nerdctlext.Environment) (*grpc.ClientConn, error) {
	tls, err := c.TLS.Resolve()
	if err != nil {
		return nil, err
	}
	trace := map[string]string{}
	for header, variable := range map[string]string{"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE", "baggage": "BAGGAGE"} {
		if value := env.Get(variable); value != "" {
			trace[header] = value
		}
	}
	conn, err := dial.Dial(dial.Options{
		Address: c.Address,
		TLS:     tls,
		Timeout: time.Duration(c.Timeout) * time.Second,
		Trace:   trace,
	})
	if err != nil {
		return nil, err
	}
	if c.Wait {
		if err := dial.Wait(ctx, conn); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}
