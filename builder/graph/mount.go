package graph

import (
	"errors"
	"fmt"
	"math"

	"github.com/moby/buildkit/solver/pb"
)

// CheckMount reports what is wrong with a mount of a process that has some number of
// inputs. Its target is not looked at.
func CheckMount(m *pb.Mount, inputs int) error {
	if m.Input < -1 || m.Input >= int64(inputs) {
		return fmt.Errorf("there is no input %d", m.Input)
	}
	switch m.MountType {
	case pb.MountType_BIND:
		return nil
	case pb.MountType_CACHE:
		if _, ok := pb.CacheSharingOpt_name[int32(m.GetCacheOpt().GetSharing())]; !ok {
			return fmt.Errorf("invalid sharing mode %d of a cache mount", m.CacheOpt.Sharing)
		}
	case pb.MountType_TMPFS:
		if size := m.GetTmpfsOpt().GetSize(); size < 0 {
			return fmt.Errorf("size %d of a tmpfs is negative", size)
		}
	case pb.MountType_SECRET:
		if m.SecretOpt == nil {
			return errors.New("secret mount without options")
		}
		return checkMade(m.SecretOpt)
	case pb.MountType_SSH:
		if m.SSHOpt == nil {
			return errors.New("ssh mount without options")
		}
		return checkMade(m.SSHOpt)
	default:
		return fmt.Errorf("type %d is not known", m.MountType)
	}
	return nil
}

// maxMode has all bits that a file's mode can have.
const maxMode = 0o7777

// checkMade checks whose a file is to be that is made for a mount, and its mode.
func checkMade(o interface {
	GetUid() uint32
	GetGid() uint32
	GetMode() uint32
}) error {
	if o.GetMode() > maxMode {
		return fmt.Errorf("mode %#o is not one of a file: want up to %#o", o.GetMode(), maxMode)
	}
	// The highest id means "no change" to the kernel, and the file would stay root's.
	if o.GetUid() == math.MaxUint32 || o.GetGid() == math.MaxUint32 {
		return fmt.Errorf("user %d or group %d is not below %d", o.GetUid(), o.GetGid(), uint32(math.MaxUint32))
	}
	return nil
}
