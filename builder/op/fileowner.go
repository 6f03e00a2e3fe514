package op

import (
	"context"
	"fmt"

	"github.com/kiln-build/kiln/builder/op/fileop"
	"github.com/moby/buildkit/solver/pb"
)

// ownerOf gives the owner that an action names, nil if none.
func ownerOf(a *pb.FileAction) *pb.ChownOpt {
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		return x.Copy.GetOwner()
	case *pb.FileAction_Mkfile:
		return x.Mkfile.GetOwner()
	case *pb.FileAction_Mkdir:
		return x.Mkdir.GetOwner()
	case *pb.FileAction_Symlink:
		return x.Symlink.GetOwner()
	}
	return nil
}

// owner finds the ids of an owner that may be given by name. A user's group is
// the one that goes with it, unless a group is given.
func (r *fileRun) owner(ctx context.Context, o *pb.ChownOpt) (*fileop.Owner, error) {
	if o == nil {
		return nil, nil
	}
	owner := &fileop.Owner{}
	switch u := o.GetUser().GetUser().(type) {
	case *pb.UserOpt_ByID:
		owner.UID, owner.GID = u.ByID, u.ByID
	case *pb.UserOpt_ByName:
		err := r.named(ctx, u.ByName, func(t *fileop.Tree) (err error) {
			owner.UID, owner.GID, err = t.User(u.ByName.GetName())
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	switch g := o.GetGroup().GetUser().(type) {
	case *pb.UserOpt_ByID:
		owner.GID = g.ByID
	case *pb.UserOpt_ByName:
		err := r.named(ctx, g.ByName, func(t *fileop.Tree) error {
			gid, found, err := t.Group(g.ByName.GetName())
			if found {
				owner.GID = gid
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return owner, nil
}

func (r *fileRun) named(ctx context.Context, u *pb.NamedUserOpt, f func(*fileop.Tree) error) error {
	if in := u.GetInput(); u == nil || in < 0 || in >= int64(len(r.trees)) {
		return fmt.Errorf("the user %q is to be looked up in input %d, which doesn't exist", u.GetName(), in)
	}
	return r.read(ctx, u.Input, f)
}
