package local

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/kiln-build/kiln/builder/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
)

// Scheme is that of sources that are directories of clients.
const Scheme = "local"

// request says what of which directory is wanted.
type request struct {
	session.FileRequest
	session string // "" is any
	hint    string
	always  bool // ask for the content of all files
	// listing: instead of the tree, a list of it is wanted, with the files
	// that contents matches.
	listing  bool
	contents *patternmatcher.PatternMatcher
	patterns []string // of contents
}

// parseRequest reads an LLB source.
func parseRequest(op *pb.SourceOp) (request, error) {
	scheme, name, _ := strings.Cut(op.GetIdentifier(), "://")
	if scheme != Scheme || name == "" {
		return request{}, fmt.Errorf("local source %q: %w", op.GetIdentifier(), errdefs.ErrInvalidArgument)
	}
	req := request{FileRequest: session.FileRequest{Name: name}}
	for key, value := range op.GetAttrs() {
		if err := req.set(key, value); err != nil {
			return req, fmt.Errorf("local source %s: %s: %w: %w", name, key, err, errdefs.ErrInvalidArgument)
		}
	}
	if prefix, id, ok := strings.Cut(req.session, ":"); ok {
		req.Name, req.session = prefix+"-"+name, id
	}
	if !req.listing {
		req.contents, req.patterns = nil, nil
	}
	return req, nil
}

func (r *request) set(key, value string) (err error) {
	list := func(to *[]string) error { return json.Unmarshal([]byte(value), to) }
	switch key {
	case pb.AttrLocalSessionID:
		r.session = value
	case pb.AttrIncludePatterns:
		return list(&r.Include)
	case pb.AttrExcludePatterns:
		return list(&r.Exclude)
	case pb.AttrFollowPaths:
		return list(&r.Follow)
	case pb.AttrSharedKeyHint:
		r.hint = value
	case pb.AttrLocalDiffer:
		r.always = value == pb.AttrLocalDifferNone
	case pb.AttrMetadataTransfer:
		r.listing, err = strconv.ParseBool(value)
	case pb.AttrMetadataTransferExclude:
		if err := list(&r.patterns); err != nil {
			return err
		}
		r.contents, err = patternmatcher.New(r.patterns)
	}
	return err
}

// keys name what is kept of a transfer: base is the same for all selections
// of one directory, full for one of them.
func (r request) keys(sharedKey string) (base, full string) {
	base = hashOf(r.Name, r.hint, sharedKey, strconv.FormatBool(r.listing))
	return base, hashOf(base, r.Include, r.Exclude, r.Follow, r.patterns)
}

func hashOf(parts ...any) string {
	b, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings and lists of strings
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
