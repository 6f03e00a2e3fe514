package embedded

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestReadAhead(t *testing.T) {
	boom := errors.New("boom")
	for _, n := range []int{0, 1, aheadBlock - 1, aheadBlock, aheadBlock + 1, 20*aheadBlock + 7} {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		a := newReadAhead(bytes.NewReader(data))
		if err := iotest.TestReader(a, data); n < 3*aheadBlock && err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		a.Close()
		a = newReadAhead(io.MultiReader(bytes.NewReader(data), iotest.ErrReader(boom)))
		got, err := io.ReadAll(a)
		if !errors.Is(err, boom) || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, then an error: got %d, %v", n, len(got), err)
		}
		a.Close()
		newReadAhead(bytes.NewReader(data)).Close() // not read to its end
	}
}
