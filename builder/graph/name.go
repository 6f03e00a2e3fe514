package graph

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// name is how a step is shown that its author gave no name.
func name(s *Step) string {
	switch o := s.Op.Op.(type) {
	case *pb.Op_Source:
		return o.Source.Identifier
	case *pb.Op_Exec:
		return strings.Join(o.Exec.Meta.Args, " ")
	case *pb.Op_File:
		names := make([]string, len(o.File.Actions))
		for i, a := range o.File.Actions {
			names[i] = actionName(a)
		}
		return strings.Join(names, ", ")
	case *pb.Op_Build:
		return "build"
	case *pb.Op_Merge:
		names := make([]string, len(s.Inputs))
		for i, in := range s.Inputs {
			names[i] = shorten(in.Step.Meta.Name)
		}
		return "merge (" + strings.Join(names, ", ") + ")"
	case *pb.Op_Diff:
		return "diff " + inputName(s, o.Diff.Lower.Input) + " -> " + inputName(s, o.Diff.Upper.Input)
	case *pb.Op_Passthrough:
		return "passthrough " + o.Passthrough.Id
	}
	return "unknown"
}

func inputName(s *Step, i int64) string {
	if i < 0 {
		return "scratch"
	}
	return shorten(s.Inputs[i].Step.Meta.Name)
}

// maxPart bounds what of an input's name is in the name of a step: names of
// names would grow with each level, in bytes.
const maxPart = 100

func shorten(name string) string {
	if len(name) <= maxPart {
		return name
	}
	return strings.ToValidUTF8(name[:maxPart], "") + "…"
}

func actionName(a *pb.FileAction) string {
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		return fmt.Sprintf("copy{src=%s, dest=%s}", x.Copy.Src, x.Copy.Dest)
	case *pb.FileAction_Mkfile:
		return fmt.Sprintf("mkfile{path=%s}", x.Mkfile.Path)
	case *pb.FileAction_Mkdir:
		return fmt.Sprintf("mkdir{path=%s}", x.Mkdir.Path)
	case *pb.FileAction_Rm:
		return fmt.Sprintf("rm{path=%s}", x.Rm.Path)
	case *pb.FileAction_Symlink:
		return fmt.Sprintf("symlink{oldpath=%s, newpath=%s}", x.Symlink.Oldpath, x.Symlink.Newpath)
	}
	return "unknown"
}
