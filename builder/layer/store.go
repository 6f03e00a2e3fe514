package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/kiln-build/kiln/builder/idmap"
	"github.com/kiln-build/kiln/builder/store"
)

// Labels of the snapshots made here.
const (
	labelOwner       = "kiln.build/owner"                      // id of the layer store; on snapshots that aren't committed
	labelTransient   = "containerd.io/snapshot/kiln.transient" // kiln's snapshotter: it needn't outlast the process
	labelPersistent  = "kiln.build/persistent"                 // on workspaces that outlive the process
	labelCreated     = "kiln.build/created"                    // RFC 3339
	labelDescription = "kiln.build/description"                // cut to maxDescription
	labelLease       = "kiln.build/lease"                      // that the layer was made under
)

// LabelStore is on the leases for what a store has mounted and for what it is
// making, with the store's ID. Those of an earlier process are removed at start.
const LabelStore = "kiln.build/mounts"

// maxDescription keeps a label below containerd's limit of 4096 bytes.
const maxDescription = 2048

// opTimeout bounds the calls that clean up after a context has ended.
const opTimeout = time.Minute

// Config says where a Store mounts and for how long.
type Config struct {
	// Root is a directory of this store alone; made with mode 0700.
	Root string
	// Linger is how long a layer stays mounted after its last use; 0 is
	// five seconds.
	Linger time.Duration
	// Users, if not nil, are of processes that trees will be mounted for. New tries
	// whether that is possible.
	Users *idmap.Map
}

// Store makes layers and workspaces, mounts them and turns layers into blobs.
// It is safe for concurrent use.
type Store struct {
	store *store.Store
	root  string
	id    string // of the root; marks what is ours
	lease string // keeps the views that mounts stand on

	views      views
	trees      trees
	digests    digests
	background background
	unpacking  keyLock // by chain ID
	packing    keyLock // by layer and compression
	merging    keyLock // by the name of a merged snapshot
	noVolatile atomic.Bool
	nextDir    atomic.Int64
	maxRun     int // see ground
}

// New opens the layer store below cfg.Root. It unmounts what a killed process
// left mounted there, and removes its unfinished workspaces, but no persistent
// ones.
func New(ctx context.Context, st *store.Store, cfg Config) (*Store, error) {
	if cfg.Linger == 0 {
		cfg.Linger = 5 * time.Second
	}
	root, err := filepath.Abs(cfg.Root)
	if err != nil || cfg.Root == "" {
		return nil, fmt.Errorf("layer store: bad root directory %q", cfg.Root)
	}
	if err := os.MkdirAll(filepath.Join(root, "mounts"), 0o700); err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(root, "empty"), 0o755); err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	id, err := store.Identity(filepath.Join(root, "id"))
	if err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	s := &Store{store: st, root: root, id: id, lease: "kiln-mounts-" + id, maxRun: defaultRun}
	s.views.init(s, cfg.Linger)
	s.background.init()
	ctx = st.Context(ctx)
	if err := s.reconcile(ctx); err != nil {
		return nil, err
	}
	if err := s.prepareFor(cfg.Users); err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	if _, err := st.Leases.Create(ctx, leases.WithID(s.lease), leases.WithLabel(LabelStore, id)); err != nil {
		return nil, fmt.Errorf("layer store: lease for mounts: %w", err)
	}
	return s, nil
}

// ID names the store among those of one containerd. It is kept below the root.
func (s *Store) ID() string { return s.id }

// Close ends what runs in the background and unmounts everything that the store
// has mounted, whether in use or not.
func (s *Store) Close(ctx context.Context) error {
	ctx = s.store.Context(ctx)
	s.background.close()
	errs := []error{s.views.close(), s.trees.close()}
	err := s.store.Leases.Delete(ctx, leases.Lease{ID: s.lease})
	if err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("layer store: lease for mounts: %w", err))
	}
	return errors.Join(errs...)
}

// Open returns the layer whose snapshot has the name. It fails with
// errdefs.ErrNotFound where there is none, or none that is finished.
func (s *Store) Open(ctx context.Context, name string) (*Layer, error) {
	ctx = s.store.Context(ctx)
	var top *Layer
	infos := map[string]snapshots.Info{}
	for at := &top; name != ""; at = &(*at).Parent {
		info, err := s.store.Snapshots.Stat(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
		if info.Kind != snapshots.KindCommitted {
			return nil, fmt.Errorf("layer %s isn't finished: %w", name, errdefs.ErrNotFound)
		}
		*at, infos[name] = fromInfo(info), info
		if name = info.Labels[labelParent]; name == "" {
			name = info.Parent
		}
	}
	if top == nil {
		return nil, fmt.Errorf("layer without a name: %w", errdefs.ErrNotFound)
	}
	return top, s.grounds(ctx, top.Chain(), infos)
}

// fromInfo makes a Layer without a parent.
func fromInfo(info snapshots.Info) *Layer {
	l := &Layer{Name: info.Name, Created: info.Created, Description: info.Labels[labelDescription], Lease: info.Labels[labelLease]}
	if t, err := time.Parse(time.RFC3339Nano, info.Labels[labelCreated]); err == nil {
		l.Created = t
	}
	l.source = readBlob(info.Labels, sourceBlob)
	return l
}

// Size returns the bytes that the layer adds to its parent on this machine's
// disk. The empty tree has none.
func (s *Store) Size(ctx context.Context, l *Layer) (int64, error) {
	if l == nil {
		return 0, nil
	}
	u, err := s.store.Snapshots.Usage(s.store.Context(ctx), l.Name)
	if err != nil {
		return 0, fmt.Errorf("size of layer %s: %w", l.Name, err)
	}
	return u.Size, nil
}

// passing are the labels of snapshots that are of use to this process only, until
// they are committed.
func (s *Store) passing() map[string]string {
	return map[string]string{labelOwner: s.id, labelTransient: "true"}
}

// newDir makes a directory to mount on.
func (s *Store) newDir() (string, error) {
	dir := filepath.Join(s.root, "mounts", fmt.Sprint(s.nextDir.Add(1)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("layer store: %w", err)
	}
	return dir, nil
}

// cleanupContext gives a context for work that must be done although ctx may
// have ended.
func (s *Store) cleanupContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.store.Context(context.WithoutCancel(ctx)), opTimeout)
}

// keyLock is a lock for each key; waiting ends with the context.
type keyLock struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed on unlock
}

func (k *keyLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		holder, busy := k.held[key]
		if !busy {
			done := make(chan struct{})
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			k.held[key] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-holder:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
