package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// benchCase is one thing that is measured. Only timed counts; what it leaves in
// the sample's folder is removed.
type benchCase struct {
	name    string
	what    string
	prepare func(context.Context, *work) error // may be nil
	timed   func(context.Context, *work) error
	only    string // the only daemon that it is measured on; "" for all
	repeat  int    // timed so often in one sample, for what is too short for one; 0 is 1
	// containerd: the daemons are on one.
	containerd bool
}

var cases = []benchCase{
	{name: "idle", what: "a daemon just started, left alone for 2 s",
		prepare: restart, timed: pause(2 * time.Second)},
	{name: "cached", what: "20 cached steps, no output",
		prepare: build(cachedSteps), timed: build(cachedSteps), repeat: 10},
	{name: "cached-oci", what: "20 cached steps to an OCI tar",
		prepare: buildTar(cachedSteps), timed: buildTar(cachedSteps), repeat: 5},
	{name: "run30", what: "30 steps of RUN true, one after another, none cached",
		prepare: build("FROM BASE\nRUN true\n"), timed: build("FROM BASE\n" + steps(30, "RUN true NONCE %d"))},
	{name: "parallel16", what: "16 stages of sleep 0.3, copied into one",
		prepare: build("FROM BASE\nRUN true\n"), timed: build(parallelStages(16))},
	{name: "context-first", what: "a context of 20,000 files, new to the daemon, copied",
		prepare: anew, timed: copyContext},
	{name: "context-same", what: "the same context again",
		prepare: copyContext, timed: copyContext},
	{name: "context-changed", what: "the same context with one file changed, copied",
		prepare: changeContext, timed: copyContext},
	{name: "pull300", what: "an image of 300 MB, new to the daemon, pulled, and a step on it",
		prepare: anew, timed: build("FROM DATA\nRUN true NONCE\n")},
	{name: "export300", what: "a step that writes 300 MB, to a gzip OCI tar",
		prepare: build("FROM DATA\nRUN true\n"), timed: buildTar("FROM BASE\nRUN --mount=from=DATA,target=/in cp /in/data /NONCE\n")},
	{name: "clients24", what: "24 clients at once, 6 steps each",
		prepare: build("FROM BASE\nRUN true\n"), timed: clients(24, "FROM BASE\n"+steps(6, "RUN true NONCE %d"))},
	{name: "builds100", what: "one after another 100 builds of 2 steps, by a daemon just started",
		prepare: restart, timed: builds(100, "FROM BASE\n"+steps(2, "RUN true NONCE %d"))},
	{name: "build-run", what: "a small layer on an image of 300 MB that is there, to the first output of a container of it",
		prepare: build(onData("echo prepared NONCE"), "--output=type=image,name=localhost/prepared:latest,unpack=true"),
		timed:   buildAndRun(onData("echo NONCE")), containerd: true},
	{name: "build-run-same", what: "the same when nothing changed",
		prepare: buildAndRun(onData("echo NONCE")), timed: buildAndRun(onData("echo NONCE")), containerd: true},
	{name: "build-run-cold", what: "a small layer on an image of 300 MB in the registry, on an empty node, to the first output",
		prepare: emptyNode, timed: buildAndRun(onImage("COLD", "echo NONCE")), containerd: true},
	{name: "build-run-lazy", what: "the same with kilnd pulling the image lazily, buildkitd in full",
		prepare: emptyNode, timed: buildAndRun(onImage("LAZY", "echo NONCE")), containerd: true},
}

// onData is a step on the large image whose output the container prints. It
// doesn't end at once, since ctr then now and then shows nothing.
func onData(command string) string { return onImage("DATA", command) }

func onImage(image, command string) string {
	return "FROM " + image + "\nRUN " + command + " > /out\nENTRYPOINT [\"/bin/sh\", \"-c\", \"/bin/cat /out; sleep 0.1\"]\n"
}

var cachedSteps = "FROM BASE\n" + steps(20, "RUN true %d")

// steps repeats a Dockerfile's line with a running number in place of its %d.
func steps(n int, line string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, line+"\n", i)
	}
	return b.String()
}

func parallelStages(n int) string {
	return steps(n, "FROM BASE AS s%[1]d\nRUN sleep 0.3 && echo NONCE > /out") +
		"FROM BASE\n" + steps(n, "COPY --from=s%[1]d /out /out%[1]d")
}

// build is a timed or prepare function.
func build(dockerfile string, args ...string) func(context.Context, *work) error {
	return func(ctx context.Context, w *work) error { return w.build(ctx, dockerfile, args...) }
}

// buildAndRun builds an image, starts it, and takes until it says something.
func buildAndRun(dockerfile string) func(context.Context, *work) error {
	return func(ctx context.Context, w *work) error {
		image := "localhost/" + w.nonce + ":latest"
		if err := w.build(ctx, dockerfile, "--output=type=image,name="+image+",unpack=true"); err != nil {
			return err
		}
		w.containers++
		end, err := w.daemon.runImage(ctx, image, fmt.Sprintf("kiln-%s-%d", w.nonce, w.containers))
		w.after = append(w.after, end)
		return err
	}
}

// buildTar builds to an OCI archive in the sample's folder.
func buildTar(dockerfile string) func(context.Context, *work) error {
	return func(ctx context.Context, w *work) error {
		return w.build(ctx, dockerfile, "--output=type=oci,dest="+filepath.Join(w.dir, "image.tar"))
	}
}

// clients runs n builds at once. They share no step that runs.
func clients(n int, dockerfile string) func(context.Context, *work) error {
	return func(ctx context.Context, w *work) error {
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { errs[i] = w.build(ctx, numbered(dockerfile, i)) })
		}
		all.Wait()
		return errors.Join(errs...)
	}
}

// builds runs n builds one after another. They share no step that runs.
func builds(n int, dockerfile string) func(context.Context, *work) error {
	return func(ctx context.Context, w *work) error {
		for i := range n {
			if err := w.build(ctx, numbered(dockerfile, i)); err != nil {
				return err
			}
		}
		return nil
	}
}

func numbered(dockerfile string, i int) string {
	return strings.ReplaceAll(dockerfile, "NONCE", fmt.Sprintf("NONCE-%d", i))
}

func copyContext(ctx context.Context, w *work) error {
	tree, err := w.files()
	if err != nil {
		return err
	}
	return w.buildIn(ctx, tree, "FROM scratch\nCOPY . /\n")
}

// changeContext leaves the daemon with the context as it was before one file
// was given new content.
func changeContext(ctx context.Context, w *work) error {
	if err := copyContext(ctx, w); err != nil {
		return err
	}
	tree, err := w.files()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tree, "d042", "f42"), []byte(w.nonce), 0o644)
}

// anew makes the daemon know nothing, and the context exist.
func anew(ctx context.Context, w *work) error {
	if _, err := w.files(); err != nil {
		return err
	}
	return w.daemon.anew(ctx)
}

// emptyNode leaves nothing in the daemon and in its containerd, and an image that
// can be pulled lazily in the registry.
func emptyNode(ctx context.Context, w *work) error {
	if err := w.lazy(ctx, w.daemon); err != nil {
		return err
	}
	if err := w.daemon.containerd.removeImages(ctx); err != nil {
		return err
	}
	return w.daemon.buildctl(ctx, "prune", "--all")
}

func restart(ctx context.Context, w *work) error { return w.daemon.restart(ctx) }

func pause(d time.Duration) func(context.Context, *work) error {
	return func(ctx context.Context, _ *work) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
