package op

import (
	"slices"
	"testing"

	"github.com/kiln-build/kiln/builder/schedule"
	"github.com/moby/buildkit/solver/pb"
)

// TestMountTargets: relative targets are below the working directory, and what
// lies below another mount is mounted after it.
func TestMountTargets(t *testing.T) {
	t.Parallel()
	for cwd, want := range map[string][]string{
		"/root/": {"/a", "/root/rel", "/root/rel/x"},
		"":       {"/a", "/rel", "/root/rel/x"},
	} {
		m := newMounting(&ExecConfig{}, schedule.Job{}, nil)
		m.cwd = cwd
		var mounts []*pb.Mount
		for _, dest := range []string{"/root/rel/x", "rel/../rel", "/a/"} {
			mounts = append(mounts, &pb.Mount{Dest: dest, MountType: pb.MountType_TMPFS, Input: -1})
		}
		if err := m.all(t.Context(), mounts); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, mt := range m.mounts {
			got = append(got, mt.Target)
		}
		if !slices.Equal(got, want) {
			t.Errorf("in %q: got %q, want %q", cwd, got, want)
		}
	}
}
