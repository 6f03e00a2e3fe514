package history

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// Build is a build that runs. Exactly one of Complete and Discard ends it.
type Build struct {
	h   *History
	ref string
	dir string // "" where nothing is recorded
	log *os.File
}

// Begin announces a build: listeners are told and see it among the running
// ones. While history is not enabled it does the same as [History.BeginHidden].
func (h *History) Begin(rec *controlapi.BuildHistoryRecord) (*Build, error) {
	if !h.Enabled() {
		return h.BeginHidden()
	}
	dir := h.dir(rec.Ref) + runningSuffix
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	started := proto.CloneOf(rec)
	h.running[rec.Ref] = started
	h.publish(controlapi.BuildHistoryEventType_STARTED, started)
	return &Build{h: h, ref: rec.Ref, dir: dir, log: log}, nil
}

// BeginHidden gives a build that leaves no trace. It has a log all the same.
func (h *History) BeginHidden() (*Build, error) {
	log, err := os.CreateTemp(h.cfg.Root, "*"+runningSuffix)
	if err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	if err := os.Remove(log.Name()); err != nil {
		log.Close()
		return nil, fmt.Errorf("build history: %w", err)
	}
	return &Build{h: h, log: log}, nil
}

// Hidden says whether the build leaves no trace.
func (b *Build) Hidden() bool { return b.dir == "" }

// Log is where the build's status goes. It can be read until Close, also after
// the end of the build.
func (b *Build) Log() *os.File { return b.log }

// Close closes the log.
func (b *Build) Close() error { return b.log.Close() }

// Blob keeps data with the record, for the record to name.
func (b *Build) Blob(mediaType string, data []byte) (*controlapi.Descriptor, error) {
	d := digest.FromBytes(data)
	if err := os.WriteFile(filepath.Join(b.dir, blobName(d)), data, 0o600); err != nil {
		return nil, fmt.Errorf("build history: %w", err)
	}
	return &controlapi.Descriptor{MediaType: mediaType, Digest: d.String(), Size: int64(len(data))}, nil
}

// Complete keeps the record, with the log as a blob of the given media type.
// It replaces an earlier record of the same ref. The record must have the ref
// that the build began with, and a CompletedAt.
func (b *Build) Complete(rec *controlapi.BuildHistoryRecord, logType string) error {
	rec = proto.CloneOf(rec)
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	delete(b.h.running, b.ref)
	if err := b.keep(rec, logType); err != nil {
		os.RemoveAll(b.dir)
		return fmt.Errorf("build history: %w", err)
	}
	delete(b.h.deleted, b.ref)
	b.h.publish(controlapi.BuildHistoryEventType_COMPLETE, rec)
	return nil
}

func (b *Build) keep(rec *controlapi.BuildHistoryRecord, logType string) error {
	var err error
	if rec.Logs, err = b.keepLog(logType); err != nil {
		return err
	}
	if err := writeRecord(b.dir, rec); err != nil {
		return err
	}
	final := b.h.dir(b.ref)
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	return os.Rename(b.dir, final)
}

func (b *Build) keepLog(mediaType string) (*controlapi.Descriptor, error) {
	digester := digest.Canonical.Digester()
	info, err := b.log.Stat()
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(digester.Hash(), io.NewSectionReader(b.log, 0, info.Size())); err != nil {
		return nil, err
	}
	d := digester.Digest()
	if err := os.Rename(b.log.Name(), filepath.Join(b.dir, blobName(d))); err != nil {
		return nil, err
	}
	return &controlapi.Descriptor{MediaType: mediaType, Digest: d.String(), Size: info.Size()}, nil
}

// Discard forgets the build. It does nothing after Complete.
func (b *Build) Discard() {
	if b.dir == "" {
		return
	}
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	delete(b.h.running, b.ref)
	os.RemoveAll(b.dir)
}

func blobName(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }
