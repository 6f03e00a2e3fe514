package op

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/kiln-build/kiln/builder/cache"
	"github.com/kiln-build/kiln/builder/graph"
	"github.com/kiln-build/kiln/builder/layer"
	"github.com/kiln-build/kiln/builder/layer/checksum"
	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// Key implements schedule.Op. The digest is that of BuildKit's JSON for file
// steps, so that it agrees with remote caches.
func (f *File) Key(context.Context, schedule.Job) (schedule.Key, error) {
	selectors, err := f.selectors()
	if err != nil {
		return schedule.Key{}, err
	}
	body := struct {
		Type    string
		Actions [][]byte
		Indexes [][3]int64 `json:"indexes,omitempty"`
	}{Type: "buildkit.file.v0"}
	key := schedule.Key{Record: cache.Description{Kind: cache.Regular, Text: f.step.Meta.Name}}
	for i, a := range f.file.Actions {
		dt, err := json.Marshal(canonicalAction(a, selectors))
		if err != nil {
			return schedule.Key{}, fmt.Errorf("file action %d: %w", i, err)
		}
		body.Actions = append(body.Actions, dt)
		body.Indexes = append(body.Indexes, [3]int64{a.Input, a.SecondaryInput, a.Output})
		key.Parts = append(key.Parts, actionPart(i, dt))
	}
	if plainChain(body.Indexes) {
		body.Indexes = nil
	}
	dt, err := json.Marshal(body)
	if err != nil {
		return schedule.Key{}, err
	}
	key.Digest = digest.FromBytes(dt)
	for i, in := range f.step.Inputs {
		key.Inputs = append(key.Inputs, f.inputKey(in, selectors[int64(i)]))
	}
	return key, nil
}

// actionPart is for explanations; content does not show.
func actionPart(i int, dt []byte) cache.Part {
	value := string(dt)
	if len(value) > 512 {
		value = digest.FromString(value).String()
	}
	return cache.Part{Name: fmt.Sprintf("action %d", i), Value: value}
}

// canonicalAction is the body of an action as it counts. Where a copy's source
// counts by its content, only its name matters.
func canonicalAction(a *pb.FileAction, selectors map[int64][]checksum.Selector) any {
	switch x := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return x.Mkdir
	case *pb.FileAction_Mkfile:
		return x.Mkfile
	case *pb.FileAction_Symlink:
		return x.Symlink
	case *pb.FileAction_Rm:
		return x.Rm
	case *pb.FileAction_Copy:
		if selectors[a.SecondaryInput] == nil {
			return x.Copy
		}
		c := x.Copy.CloneVT()
		c.Src = path.Base(c.Src)
		return c
	}
	return nil
}

// plainChain recognises the most common order of actions, which BuildKit leaves
// out of the digest.
func plainChain(indexes [][3]int64) bool {
	for i, index := range indexes {
		input, output := int64(0), int64(-1)
		if i > 0 {
			input = int64(len(indexes) + i - 1)
		}
		if i == len(indexes)-1 {
			output = 0
		}
		if index[0] != input || index[1] != -1 && index[1] != 1 || index[2] != output {
			return false
		}
	}
	return true
}

// selectors says what the step reads of each input that counts by its content:
// those that are not written on as well.
func (f *File) selectors() (map[int64][]checksum.Selector, error) {
	inputs := int64(len(f.step.Inputs))
	selectors := map[int64][]checksum.Selector{}
	add := func(input int64, s checksum.Selector) {
		if input >= 0 && input < inputs {
			selectors[input] = append(selectors[input], s)
		}
	}
	for i, a := range f.file.Actions {
		o := ownerOf(a)
		for file, u := range map[string]*pb.UserOpt{"/etc/passwd": o.GetUser(), "/etc/group": o.GetGroup()} {
			byName, ok := u.GetUser().(*pb.UserOpt_ByName)
			if !ok {
				continue
			}
			if in := byName.ByName.GetInput(); byName.ByName == nil || in < 0 || in >= inputs+int64(i) {
				return nil, fmt.Errorf("file action %d: invalid user index %d", i, in)
			}
			add(byName.ByName.Input, checksum.Selector{Path: file, FollowLinks: true})
		}
		if c := a.GetCopy(); c != nil {
			add(a.SecondaryInput, checksum.Selector{
				Path:        c.Src,
				Wildcard:    c.AllowWildcard && checksum.HasWildcard(c.Src),
				FollowLinks: c.FollowSymlink,
				Include:     c.IncludePatterns,
				Exclude:     c.ExcludePatterns,
				Required:    c.RequiredPaths,
			})
		}
	}
	for _, a := range f.file.Actions {
		delete(selectors, a.Input)
	}
	return selectors, nil
}

func (f *File) inputKey(in graph.Output, selectors []checksum.Selector) schedule.InputKey {
	if len(selectors) == 0 {
		return schedule.InputKey{}
	}
	var paths []string
	for _, s := range selectors {
		paths = append(paths, s.Path)
	}
	slices.Sort(paths)
	slices.Reverse(paths)
	return schedule.InputKey{
		Selector: digest.FromString(strings.Join(paths, "\x00")).String(),
		Reads:    paths,
		Content: func(ctx context.Context, _ schedule.Job, r schedule.Result) (digest.Digest, error) {
			l, _ := r.(*layer.Layer)
			if l == nil && wholes(selectors) {
				return digestNothing(len(selectors)), nil
			}
			d, err := f.layers.Digest(ctx, l, selectors)
			// Clients know the messages by their shape: there is one for what
			// has no tree, and one for an empty tree such as a directory sent.
			var missing *checksum.PathError
			switch {
			case errors.As(err, &missing) && l == nil && !sent(in):
				err = &os.PathError{Op: "lstat", Path: missing.Path, Err: syscall.ENOENT}
			case missing != nil:
				err = missing
			}
			if err != nil {
				return "", fmt.Errorf("failed to calculate checksum of ref %s: %w", refName(l), err)
			}
			return d, nil
		},
	}
}

// sent tells whether an output is a client's directory.
func sent(o graph.Output) bool {
	return o.Step != nil && strings.HasPrefix(o.Step.Op.GetSource().GetIdentifier(), "local://")
}

// wholes tells whether all selectors select the whole tree.
func wholes(selectors []checksum.Selector) bool {
	return !slices.ContainsFunc(selectors, func(s checksum.Selector) bool { return path.Join("/", s.Path) != "/" })
}

// digestNothing is BuildKit's digest of the empty tree, selected n times.
func digestNothing(n int) digest.Digest {
	return digest.FromString(strings.Join(slices.Repeat([]string{digest.FromBytes(nil).String()}, n), "\x00"))
}

func refName(l *layer.Layer) string {
	if l == nil {
		return "scratch"
	}
	return l.Name
}
