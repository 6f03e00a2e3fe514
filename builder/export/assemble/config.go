package assemble

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// DefaultConfig is the config of an image whose frontend gave none: it is for
// the platform that the engine runs on.
func DefaultConfig() []byte {
	img := ocispec.Image{Platform: platforms.Normalize(platforms.DefaultSpec())}
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	img.Config.Env = []string{defaultPath}
	data, err := json.Marshal(img)
	if err != nil {
		panic(err) // plain strings
	}
	return data
}

// imageConfig completes the frontend's config: what the engine knows better is
// replaced, keys that it doesn't know stay.
func imageConfig(in Input) ([]byte, []digest.Digest, error) {
	given := in.Config
	if len(given) == 0 {
		given = DefaultConfig()
	}
	if len(given) > maxDocument {
		return nil, nil, fmt.Errorf("image config: %d bytes are more than an image may have (%d)", len(given), maxDocument)
	}
	fields, img, err := parseConfig(given)
	if err != nil {
		return nil, nil, fmt.Errorf("image config from the frontend: %w", err)
	}
	base, err := baseHistory(in.Base)
	if err != nil {
		return nil, nil, err
	}
	ids, err := diffIDs(in.Layers)
	if err != nil {
		return nil, nil, err
	}
	history := completeHistory(img.History, in.Layers)
	if in.Epoch != nil {
		clampHistory(history, base, *in.Epoch)
	}
	created, err := creation(fields["created"], history, in.Epoch)
	if err != nil {
		return nil, nil, fmt.Errorf("image config from the frontend: %w", err)
	}
	for key, value := range map[string]any{
		"rootfs":  ocispec.RootFS{Type: "layers", DiffIDs: ids},
		"history": history,
		"created": created,
	} {
		if fields[key], err = json.Marshal(value); err != nil {
			return nil, nil, fmt.Errorf("image config: %s: %w", key, err)
		}
	}
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, nil, fmt.Errorf("image config: %w", err)
	}
	return data, ids, nil
}

// parseConfig gives the config's fields as they are, and the known ones.
func parseConfig(data []byte) (map[string]json.RawMessage, *ocispec.Image, error) {
	var img ocispec.Image
	if err := json.Unmarshal(data, &img); err != nil {
		return nil, nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, nil, err
	}
	switch {
	case fields == nil:
		return nil, nil, errors.New("invalid null image config for export")
	case img.OS == "":
		return nil, nil, fmt.Errorf("missing os")
	case img.Architecture == "":
		return nil, nil, fmt.Errorf("missing architecture")
	}
	return fields, &img, nil
}

// LayerCount is how many layers an image with the config has; 0 for no config.
func LayerCount(config []byte) (int, error) {
	if len(config) == 0 {
		return 0, nil
	}
	var img struct {
		RootFS ocispec.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &img); err != nil {
		return 0, fmt.Errorf("config of the base image: %w", err)
	}
	return len(img.RootFS.DiffIDs), nil
}

func baseHistory(data []byte) ([]ocispec.History, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var base struct {
		History []ocispec.History `json:"history"`
	}
	if err := json.Unmarshal(data, &base); err != nil {
		return nil, fmt.Errorf("config of the base image: %w", err)
	}
	return base.History, nil
}

// creation is the value of "created": given where there is one, else that of
// the last history entry that has a time.
func creation(given json.RawMessage, history []ocispec.History, epoch *time.Time) (any, error) {
	if given == nil {
		var last *time.Time
		for _, h := range history {
			if h.Created != nil {
				last = h.Created
			}
		}
		return last, nil
	}
	if epoch == nil || bytes.Equal(given, []byte("null")) {
		return given, nil
	}
	var t time.Time
	if err := json.Unmarshal(given, &t); err != nil {
		return nil, fmt.Errorf("created: %w", err)
	}
	if t.After(*epoch) {
		return epoch, nil
	}
	return given, nil
}
