package build

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/session/upload/uploadprovider"
)

// offer is what a build lets the daemon reach on this side, and what is left to do here
// when the build has ended.
type offer struct {
	services []session.Attachable
	// options and imports are what the daemon must be told to find it.
	options map[string]string
	imports []Cache

	stores map[string]content.Store
	// finishing completes what the outputs began; cleaning runs in any case after it.
	finishing []func(ctx context.Context, exported map[string]string) error
	cleaning  []func()
}

// offer opens everything that the request names, so that a mistake shows before the
// daemon has begun. The caller discards it.
func (c *Client) offer(request *Request, watch *watcher) (_ *offer, err error) {
	o := &offer{options: map[string]string{}, stores: map[string]content.Store{}}
	defer func() {
		if err != nil {
			o.discard()
		}
	}()
	o.upload(request.Uploads)
	o.services = append(o.services, c.auth(watch))
	if len(request.Locals) > 0 {
		trees, err := openLocals(request.Locals)
		if err != nil {
			return nil, err
		}
		o.services = append(o.services, filesync.NewFSSyncProvider(trees))
	}
	if len(request.Secrets) > 0 {
		store, err := openSecrets(request.Secrets, c.Lookup)
		if err != nil {
			return nil, err
		}
		o.services = append(o.services, secretsprovider.NewSecretProvider(store))
	}
	if len(request.Agents) > 0 {
		agents, err := sshprovider.NewSSHAgentProvider(request.Agents)
		if err != nil {
			return nil, err
		}
		o.services = append(o.services, agents)
	}
	if err := o.layouts(request.Layouts); err != nil {
		return nil, err
	}
	if err := o.caches(request, c.warn); err != nil {
		return nil, err
	}
	if err := o.outputs(request.Outputs, c.Stdout); err != nil {
		return nil, err
	}
	if len(o.stores) > 0 {
		o.services = append(o.services, sessioncontent.NewAttachable(o.stores))
	}
	return o, nil
}

// upload makes each stream fetchable once, under the URL that becomes its option.
func (o *offer) upload(streams map[string]io.ReadCloser) {
	if len(streams) == 0 {
		return
	}
	uploads := uploadprovider.New()
	for option, stream := range streams {
		o.options[option] = uploads.Add(stream)
		o.cleaning = append(o.cleaning, func() { stream.Close() })
	}
	o.services = append(o.services, uploads)
}

// finish completes the outputs of a build that succeeded.
func (o *offer) finish(ctx context.Context, exported map[string]string) error {
	for _, do := range o.finishing {
		if err := do(ctx, exported); err != nil {
			return err
		}
	}
	return nil
}

// discard lets go of everything, and removes what has not been finished.
func (o *offer) discard() {
	for _, do := range o.cleaning {
		do()
	}
}
