package session

import (
	"context"
	"fmt"
	"io"
	"net/url"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/upload"
	"google.golang.org/grpc/metadata"
)

// FileRequest names a directory of the client and what of it is wanted. Nil
// and empty patterns are told apart as the client does.
type FileRequest struct {
	Name    string
	Include []string
	Exclude []string
	// Follow are paths whose symlinks' targets are wanted too.
	Follow []string
}

// FileStream carries packets of the fsutil protocol; the client is the sender.
type FileStream = filesync.FileSync_DiffCopyClient

// Files starts the transfer of a directory. The stream ends with ctx. That the
// client doesn't know the directory shows on the first receive.
func (c *Client) Files(ctx context.Context, req FileRequest) (FileStream, error) {
	if err := c.require(bksession.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "diffcopy"), "directories"); err != nil {
		return nil, fmt.Errorf("local source %s: %w", req.Name, err)
	}
	md := metadata.MD{}
	setHeader(md, "dir-name", []string{req.Name})
	setHeader(md, "include-patterns", req.Include)
	setHeader(md, "exclude-patterns", req.Exclude)
	setHeader(md, "followpaths", req.Follow)
	stream, err := filesync.NewFileSyncClient(c.cc).DiffCopy(outgoing(ctx, md))
	if err != nil {
		return nil, fmt.Errorf("local source %s: %w", req.Name, c.fail(err))
	}
	return stream, nil
}

// Fail makes an error of a stream readable.
func (c *Client) Fail(err error) error { return c.fail(err) }

// setHeader sets a header whose values may hold anything: where one can't be
// sent as it is, all are escaped and a second header says so.
func setHeader(md metadata.MD, key string, values []string) {
	if values == nil {
		return
	}
	if !printable(values) {
		escaped := make([]string, len(values))
		for i, v := range values {
			escaped[i] = url.QueryEscape(v)
		}
		values = escaped
		md[key+"-encoded"] = []string{"1"}
	}
	md[key] = values
}

func printable(values []string) bool {
	for _, v := range values {
		for i := range len(v) {
			if v[i] < 0x20 || v[i] > 0x7e {
				return false
			}
		}
	}
	return true
}

// Upload reads what the client gives for a URL, such as a build context on its
// standard input. Closing the reader ends the transfer.
func (c *Client) Upload(ctx context.Context, u *url.URL) (io.ReadCloser, error) {
	if err := c.require(bksession.MethodURL(upload.Upload_ServiceDesc.ServiceName, "pull"), "uploads"); err != nil {
		return nil, fmt.Errorf("%s: %w", u, err)
	}
	md := metadata.MD{}
	setHeader(md, "urlpath", []string{u.Path})
	setHeader(md, "urlhost", []string{u.Host})
	ctx, cancel := context.WithCancel(outgoing(ctx, md))
	stream, err := upload.NewUploadClient(c.cc).Pull(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%s: %w", u, c.fail(err))
	}
	return &uploadReader{c: c, stream: stream, cancel: cancel}, nil
}

type uploadReader struct {
	c      *Client
	stream upload.Upload_PullClient
	cancel context.CancelFunc
	rest   []byte
}

func (r *uploadReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.stream.Recv()
		if err == io.EOF {
			return 0, io.EOF
		}
		if err != nil {
			return 0, r.c.fail(err)
		}
		r.rest = m.Data
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *uploadReader) Close() error {
	r.cancel()
	return nil
}
