package graph

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
)

// check reports what is wrong with an op taken alone, and how many outputs it
// has otherwise.
func check(op *pb.Op) (outputs int, err error) {
	for i, in := range op.Inputs {
		if in == nil {
			return 0, fmt.Errorf("input %d is missing", i)
		}
	}
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		return 1, checkSource(o.Source)
	case *pb.Op_Exec:
		return checkExec(o.Exec, len(op.Inputs))
	case *pb.Op_File:
		return checkFile(o.File, len(op.Inputs))
	case *pb.Op_Build:
		return 1, checkBuild(o.Build, len(op.Inputs))
	case *pb.Op_Merge:
		return 1, checkMerge(o.Merge, len(op.Inputs))
	case *pb.Op_Diff:
		return 1, checkDiff(o.Diff, len(op.Inputs))
	case *pb.Op_Passthrough:
		return checkPassthrough(o.Passthrough, len(op.Inputs))
	case nil:
		return 0, errors.New("it has no body")
	default:
		return 0, fmt.Errorf("its kind %T is not known", o)
	}
}

func checkSource(o *pb.SourceOp) error {
	if o.GetIdentifier() == "" {
		return errors.New("source without an identifier")
	}
	return nil
}

func checkExec(o *pb.ExecOp, inputs int) (int, error) {
	switch {
	case o.GetMeta() == nil:
		return 0, errors.New("exec without meta")
	case len(o.Meta.Args) == 0:
		return 0, errors.New("exec without args")
	case len(o.Mounts) == 0:
		return 0, errors.New("exec without mounts")
	}
	if _, ok := pb.NetMode_name[int32(o.Network)]; !ok {
		return 0, fmt.Errorf("invalid network mode %d", o.Network)
	}
	if _, ok := pb.SecurityMode_name[int32(o.Security)]; !ok {
		return 0, fmt.Errorf("invalid security mode %d", o.Security)
	}
	root := false
	var outs []int64
	for i, m := range o.Mounts {
		if m == nil {
			return 0, fmt.Errorf("mount %d is missing", i)
		}
		if err := CheckMount(m, inputs); err != nil {
			return 0, fmt.Errorf("mount %d at %q: %w", i, m.Dest, err)
		}
		root = root || m.Dest == pb.RootMount
		if m.MountType == pb.MountType_BIND {
			outs = append(outs, m.Output) // others have none, whatever they say
		}
	}
	if !root {
		return 0, errors.New("exec without a mount at /")
	}
	return countOutputs(outs)
}

func checkFile(o *pb.FileOp, inputs int) (int, error) {
	if len(o.GetActions()) == 0 {
		return 0, errors.New("file operation without actions")
	}
	var outs []int64
	for i, a := range o.Actions {
		if a == nil || a.Action == nil {
			return 0, fmt.Errorf("file action %d is missing", i)
		}
		// An index counts the inputs first, then the actions before this one.
		limit := int64(inputs + i)
		for _, in := range []int64{a.Input, a.SecondaryInput} {
			if in < -1 || in >= limit {
				return 0, fmt.Errorf("file action %d: there is no input %d", i, in)
			}
		}
		if err := checkAction(a); err != nil {
			return 0, fmt.Errorf("file action %d: %w", i, err)
		}
		outs = append(outs, a.Output)
	}
	return countOutputs(outs)
}

func checkAction(a *pb.FileAction) error {
	var missing bool
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		missing = x.Copy == nil
	case *pb.FileAction_Mkfile:
		missing = x.Mkfile == nil
	case *pb.FileAction_Mkdir:
		missing = x.Mkdir == nil
	case *pb.FileAction_Rm:
		missing = x.Rm == nil
	case *pb.FileAction_Symlink:
		missing = x.Symlink == nil
	default:
		return fmt.Errorf("its kind %T is not known", x)
	}
	if missing {
		return errors.New("it is empty")
	}
	return nil
}

func checkBuild(o *pb.BuildOp, inputs int) error {
	if o == nil {
		return errors.New("build operation is empty")
	}
	for name, in := range o.Inputs {
		if in == nil || in.Input < 0 || in.Input >= int64(inputs) {
			return fmt.Errorf("build input %q: there is no such input", name)
		}
	}
	return nil
}

func checkMerge(o *pb.MergeOp, inputs int) error {
	for i, in := range o.GetInputs() {
		if in == nil || in.Input < -1 || in.Input >= int64(inputs) {
			return fmt.Errorf("merge input %d: there is no such input", i)
		}
	}
	return nil
}

func checkDiff(o *pb.DiffOp, inputs int) error {
	if o.GetLower() == nil || o.GetUpper() == nil {
		return errors.New("diff without lower or upper")
	}
	for _, i := range []int64{o.Lower.Input, o.Upper.Input} {
		if i < -1 || i >= int64(inputs) {
			return fmt.Errorf("diff: there is no input %d", i)
		}
	}
	return nil
}

func checkPassthrough(o *pb.PassthroughOp, inputs int) (int, error) {
	if o == nil || o.Id == "" || len(o.GetOutputs()) == 0 {
		return 0, errors.New("passthrough without id or outputs")
	}
	for i, in := range o.Outputs {
		if in < 0 || in >= int64(inputs) {
			return 0, fmt.Errorf("passthrough output %d: there is no input %d", i, in)
		}
	}
	return len(o.Outputs), nil
}

// countOutputs checks that the outputs that are not -1 are numbered from 0
// without a gap or a repetition.
func countOutputs(outs []int64) (int, error) {
	seen := map[int64]bool{}
	for _, o := range outs {
		if o < -1 || o >= int64(len(outs)) {
			return 0, fmt.Errorf("output %d is out of range", o)
		}
		if o >= 0 && seen[o] {
			return 0, fmt.Errorf("output %d is made twice", o)
		}
		seen[o] = o >= 0
	}
	delete(seen, -1)
	for i := range int64(len(seen)) {
		if !seen[i] {
			return 0, fmt.Errorf("output %d is missing", i)
		}
	}
	return len(seen), nil
}
