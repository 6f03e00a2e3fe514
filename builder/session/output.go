package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/metadata"
)

// maxChunk is how much of a file one message carries.
const maxChunk = 3 << 20

// Output names one of the places that the client takes results at.
type Output struct {
	// ID is the number of the output in the client's request.
	ID int
	// Metadata is told to the client beside the content.
	Metadata map[string]string
	// MultiPlatform tells the client that one transfer holds all platforms,
	// each in a directory of its own.
	MultiPlatform bool
}

func (o Output) header() metadata.MD {
	md := metadata.MD{"buildkit-attachable-exporter-id": {strconv.Itoa(o.ID)}}
	for k, v := range o.Metadata {
		setHeader(md, strings.ToLower("exporter-md-"+k), []string{v})
	}
	if o.MultiPlatform {
		md["buildkit-exporter-multi-platform"] = []string{"1"}
	}
	return md
}

func (c *Client) sendStream(ctx context.Context, o Output) (filesync.FileSend_DiffCopyClient, error) {
	if err := c.require(bksession.MethodURL(filesync.FileSend_ServiceDesc.ServiceName, "diffcopy"), "to take files"); err != nil {
		return nil, err
	}
	stream, err := filesync.NewFileSendClient(c.cc).DiffCopy(outgoing(ctx, o.header()))
	if err != nil {
		return nil, c.fail(err)
	}
	return stream, nil
}

// SendFile starts to send one file. Close waits until the client has it all.
// Write and Close fail with errdefs.ErrAlreadyExists where the client has the
// file already, which is no fault of the build's. Ending ctx aborts.
func (c *Client) SendFile(ctx context.Context, o Output) (io.WriteCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.sendStream(ctx, o)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("output %d: %w", o.ID, err)
	}
	return &fileWriter{c: c, out: o, stream: stream, cancel: cancel}, nil
}

type fileWriter struct {
	c      *Client
	out    Output
	stream filesync.FileSend_DiffCopyClient
	cancel context.CancelFunc
}

func (w *fileWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		chunk := b[:min(len(b), maxChunk)]
		if err := w.stream.Send(&filesync.BytesMessage{Data: chunk}); err != nil {
			return n, w.fail(err)
		}
		n += len(chunk)
		b = b[len(chunk):]
	}
	return n, nil
}

func (w *fileWriter) Close() error {
	defer w.cancel()
	if err := w.stream.CloseSend(); err != nil {
		return w.fail(err)
	}
	return w.fail(io.EOF)
}

// fail finds why the client ended the stream; nil if it did so in good order.
func (w *fileWriter) fail(err error) error {
	for errors.Is(err, io.EOF) {
		if _, err = w.stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = io.EOF // a client has nothing to say here
		}
	}
	return fmt.Errorf("output %d: %w", w.out.ID, w.c.fail(err))
}

// SendDir sends a directory and waits until the client has it. progress, which
// may be nil, is told the bytes that were sent so far, one call at a time.
func (c *Client) SendDir(ctx context.Context, o Output, dir fsutil.FS, progress func(bytes int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.sendStream(ctx, o)
	if err != nil {
		return fmt.Errorf("output %d: %w", o.ID, err)
	}
	if err := sendDir(ctx, stream, dir, progress); err != nil {
		return fmt.Errorf("output %d: %w", o.ID, c.fail(err))
	}
	if err := stream.CloseSend(); err != nil {
		return fmt.Errorf("output %d: %w", o.ID, c.fail(err))
	}
	if err := stream.RecvMsg(&filesync.BytesMessage{}); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("output %d: %w", o.ID, c.fail(err))
	}
	return nil
}
