package status

import (
	"encoding/binary"
	"fmt"
	"io"

	controlapi "github.com/moby/buildkit/api/services/control"
)

// frameLimit is more than any frame that is written has.
const frameLimit = 64 << 20

// appendFrame adds a message to a log's bytes.
func appendFrame(log []byte, m *controlapi.StatusResponse) ([]byte, error) {
	log = binary.LittleEndian.AppendUint32(log, uint32(m.SizeVT()))
	data, err := m.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encoding build status: %w", err)
	}
	return append(log, data...), nil
}

// Send gives the frames in the bytes from start to end of a log to send, as
// few messages as their size allows. start and end must be where frames start
// or end.
func Send(log io.ReaderAt, start, end int64, send func(*controlapi.StatusResponse) error) error {
	r := io.NewSectionReader(log, start, end-start)
	var body []byte
	for {
		frame, err := readFrame(r)
		if err != nil && err != io.EOF {
			return fmt.Errorf("reading build status: %w", err)
		}
		if len(body) > 0 && (err == io.EOF || len(body)+len(frame) > messageSize) {
			if err := sendBody(body, send); err != nil {
				return err
			}
			body = body[:0]
		}
		if err == io.EOF {
			return nil
		}
		// All fields of the message are lists, so messages are joined by
		// joining their bytes.
		body = append(body, frame...)
	}
}

func sendBody(body []byte, send func(*controlapi.StatusResponse) error) error {
	m := &controlapi.StatusResponse{}
	if err := m.UnmarshalVT(body); err != nil {
		return fmt.Errorf("decoding build status: %w", err)
	}
	sortMessage(m)
	return send(m)
}

// readFrame returns io.EOF at the end of r only.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size > frameLimit {
		return nil, fmt.Errorf("a frame of %d bytes is larger than any that is written", size)
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return frame, nil
}
