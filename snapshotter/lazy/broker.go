package lazy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// Authorize answers a registry's challenge on behalf of whoever a grant stands
// for, with the value of an Authorization header. errdefs.ErrNotFound means that
// the grant isn't known any more, or its credentials don't do.
type Authorize func(ctx context.Context, c Challenge) (header string, err error)

// Challenge is a registry's wish to know who it speaks with.
type Challenge struct {
	Grant string `json:"grant"`
	// Repository is what the layer was asked for in: HOST/PATH.
	Repository string `json:"repository"`
	// URL is what was asked for, Scopes what that takes.
	URL    string   `json:"url"`
	Scopes []string `json:"scopes,omitempty"`
	// Challenges are the values of the answer's WWW-Authenticate headers.
	Challenges []string `json:"challenges"`
	// Refused is the header that was sent, "" for none.
	Refused string `json:"refused,omitempty"`
}

// broker serves Authorize to the process that serves files, as JSON over HTTP. So
// that process holds no more than the registry itself is shown.
type broker struct {
	server *http.Server
}

// authorizeTimeout is how long a client of a session may take to make a token.
const authorizeTimeout = 15 * time.Second

func serveBroker(socket string, authorize Authorize) (*broker, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	b := &broker{server: &http.Server{
		ReadTimeout: authorizeTimeout,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var c Challenge
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&c); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), authorizeTimeout)
			defer cancel()
			header, err := authorize(ctx, c)
			switch {
			case errdefs.IsNotFound(err):
				http.Error(w, err.Error(), http.StatusNotFound)
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
			default:
				fmt.Fprint(w, header)
			}
		}),
	}}
	go func() { _ = b.server.Serve(l) }() // until Close
	return b, nil
}

func (b *broker) Close() error { return b.server.Close() }
