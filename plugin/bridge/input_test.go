package bridge

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

func TestInput(t *testing.T) {
	t.Parallel()
	in := newInput()
	want := make([]byte, 3*maxInput)
	for i := range want {
		want[i] = byte(i >> 8)
	}
	go func() {
		for i := 0; i < len(want); i += 1 << 16 {
			in.add(want[i : i+1<<16])
		}
		in.end()
		in.add([]byte("what comes after the end"))
	}()
	got, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestInputWaits(t *testing.T) {
	t.Parallel()
	in := newInput()
	added := make(chan struct{})
	go func() {
		in.add(make([]byte, maxInput))
		in.add([]byte("x")) // there is no room
		close(added)
	}()
	select {
	case <-added:
		t.Error("it takes anything")
	case <-time.After(50 * time.Millisecond):
	}
	if n, err := in.Read(make([]byte, maxInput)); n != maxInput || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	<-added
}

func TestInputClosed(t *testing.T) {
	t.Parallel()
	in := newInput()
	read := make(chan error)
	go func() {
		_, err := in.Read(make([]byte, 1))
		read <- err
	}()
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a reader that waits: %v", err)
	}
	in.add(make([]byte, 2*maxInput))
	in.add(make([]byte, 2*maxInput)) // nobody waits for what nobody reads
	if len(in.data) > 0 {
		t.Error("it keeps what nobody reads")
	}
}
