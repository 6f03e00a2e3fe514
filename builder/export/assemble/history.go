package assemble

import (
	"reflect"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// completeHistory makes the history account for every layer, once, and gives
// each entry a time where one is to be had.
func completeHistory(history []ocispec.History, layers []Layer) []ocispec.History {
	history = slices.Clone(history) // stays null where it is
	next := 0                       // layer that the next non-empty entry stands for
	for i := range history {
		h := &history[i]
		if h.EmptyLayer {
			continue
		}
		if next == len(layers) {
			h.EmptyLayer = true
			continue
		}
		if h.Created == nil {
			h.Created = created(layers[next])
		}
		next++
	}
	for _, l := range layers[next:] {
		by := l.Description
		if by == "" {
			by = "created by buildkit"
		}
		history = append(history, ocispec.History{
			Created: created(l), CreatedBy: by, Comment: "buildkit.exporter.image.v0",
		})
	}
	fillTimes(history)
	return history
}

func created(l Layer) *time.Time {
	if l.Created.IsZero() {
		return nil
	}
	t := l.Created
	return &t
}

// fillTimes dates the entries that only changed metadata. A base image's
// entries have times, so the first undated entry is where the build began: it
// and those after it get the time of the first layer that the build made or,
// where the build made none, the last time there is; later ones that of the
// entry before them.
func fillTimes(history []ocispec.History) {
	first := len(history)
	for i, h := range history {
		if h.Created == nil {
			first = i
			break
		}
	}
	var t *time.Time
	if first > 0 {
		t = history[first-1].Created
	}
	for _, h := range history[first:] {
		if h.Created != nil {
			t = h.Created
			break
		}
	}
	for i := first; i < len(history); i++ {
		if history[i].Created == nil {
			history[i].Created = t
		} else {
			t = history[i].Created
		}
	}
}

// clampHistory takes back times after epoch, and sets unknown ones to it. The
// entries that came with the base image stay as they are.
func clampHistory(history, base []ocispec.History, epoch time.Time) {
	first := 0
	for first < len(history) && first < len(base) && reflect.DeepEqual(history[first], base[first]) {
		first++
	}
	for i := first; i < len(history); i++ {
		if t := history[i].Created; t == nil || t.After(epoch) {
			history[i].Created = &epoch
		}
	}
}
