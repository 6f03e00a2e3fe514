package buildctl

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// rerunAll marks every step of the graph as one that ignores the cache.
func rerunAll(definition *pb.Definition) {
	if definition.Metadata == nil {
		definition.Metadata = map[string]*pb.OpMetadata{}
	}
	for _, op := range definition.Def {
		id := string(digest.FromBytes(op))
		if definition.Metadata[id] == nil {
			definition.Metadata[id] = &pb.OpMetadata{}
		}
		definition.Metadata[id].IgnoreCache = true
	}
}

// dumped is one step as dump-llb prints it.
type dumped struct {
	Op         *pb.Op
	Digest     digest.Digest
	OpMetadata *pb.OpMetadata
}

func (t *tool) dumpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump-llb [FILE|-]",
		Short: "print a marshalled LLB definition; needs no daemon",
		Args:  cobra.MaximumNArgs(1),
	}
	dot := cmd.Flags().Bool("dot", false, "print a graph for graphviz")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		in := t.env.Stdin
		if len(args) == 1 && args[0] != "-" {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			in = file
		}
		definition, err := readDefinition(in, false)
		if err != nil {
			return err
		}
		steps, err := steps(definition)
		if err != nil {
			return err
		}
		if *dot {
			return writeDot(t.env.Stdout, steps)
		}
		encoder := json.NewEncoder(t.env.Stdout)
		for _, step := range steps {
			if err := encoder.Encode(step); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func steps(definition *pb.Definition) ([]dumped, error) {
	var out []dumped
	for i, content := range definition.Def {
		step := dumped{Op: &pb.Op{}, Digest: digest.FromBytes(content)}
		if err := step.Op.UnmarshalVT(content); err != nil {
			return nil, fmt.Errorf("step %d of the definition: %w", i, err)
		}
		if step.OpMetadata = definition.Metadata[string(step.Digest)]; step.OpMetadata == nil {
			step.OpMetadata = &pb.OpMetadata{}
		}
		out = append(out, step)
	}
	return out, nil
}

func writeDot(out io.Writer, steps []dumped) error {
	fmt.Fprintln(out, "digraph {")
	for _, step := range steps {
		label, shape := node(step)
		fmt.Fprintf(out, "  %q [label=%q shape=%q];\n", step.Digest, label, shape)
	}
	for _, step := range steps {
		for i, input := range step.Op.GetInputs() {
			fmt.Fprintf(out, "  %q -> %q [label=%q];\n", input.GetDigest(), step.Digest, mountedAt(step.Op, i))
		}
	}
	_, err := fmt.Fprintln(out, "}")
	return err
}

// mountedAt is where an exec step has its input, but for the root.
func mountedAt(op *pb.Op, input int) string {
	at := ""
	for _, mount := range op.GetExec().GetMounts() {
		if int(mount.GetInput()) == input && mount.GetDest() != "/" {
			at = mount.GetDest()
		}
	}
	return at
}

func node(step dumped) (label, shape string) {
	switch op := step.Op.GetOp().(type) {
	case *pb.Op_Source:
		return op.Source.GetIdentifier(), "ellipse"
	case *pb.Op_Exec:
		return strings.Join(op.Exec.GetMeta().GetArgs(), " "), "box"
	case *pb.Op_Build:
		return "build", "box3d"
	case *pb.Op_Merge:
		return "merge", "invtriangle"
	case *pb.Op_Diff:
		return "diff", "doublecircle"
	case *pb.Op_File:
		var names []string
		for _, action := range op.File.GetActions() {
			names = append(names, actionName(action))
		}
		return strings.Join(names, ","), "note"
	}
	return string(step.Digest), "plaintext"
}

func actionName(action *pb.FileAction) string {
	switch a := action.GetAction().(type) {
	case *pb.FileAction_Copy:
		return fmt.Sprintf("copy{src=%s, dest=%s}", a.Copy.GetSrc(), a.Copy.GetDest())
	case *pb.FileAction_Mkfile:
		return fmt.Sprintf("mkfile{path=%s}", a.Mkfile.GetPath())
	case *pb.FileAction_Mkdir:
		return fmt.Sprintf("mkdir{path=%s}", a.Mkdir.GetPath())
	case *pb.FileAction_Rm:
		return fmt.Sprintf("rm{path=%s}", a.Rm.GetPath())
	case *pb.FileAction_Symlink:
		return fmt.Sprintf("symlink{oldpath=%s, newpath=%s}", a.Symlink.GetOldpath(), a.Symlink.GetNewpath())
	}
	return "unknown"
}
