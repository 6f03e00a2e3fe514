package status

import (
	"bytes"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
)

func FuzzSend(f *testing.F) {
	frame, err := appendFrame(nil, &controlapi.StatusResponse{Vertexes: []*controlapi.Vertex{{Name: "a"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add(append(frame, frame...))
	f.Add(frame[:3])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, log []byte) {
		read := func(log []byte) error {
			return Send(bytes.NewReader(log), 0, int64(len(log)), func(*controlapi.StatusResponse) error { return nil })
		}
		if read(log) == nil && read(append(log, 1, 0)) == nil {
			t.Error("part of a frame was taken for a whole one")
		}
	})
}
