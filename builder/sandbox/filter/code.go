package filter

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
)

// interval is the numbers from first up to the next interval's, and the code that
// answers calls with these numbers.
type interval struct {
	first uint32
	code  []bpf.Instruction
}

// merge joins neighbours with the same answer.
func merge(all []interval) []interval {
	return slices.CompactFunc(all, func(a, b interval) bool { return slices.Equal(a.code, b.code) })
}

// search finds the interval of the number that is loaded. The intervals are sorted.
func search(all []interval) []bpf.Instruction {
	if len(all) == 1 {
		return all[0].code
	}
	middle := len(all) / 2
	low, high := search(all[:middle]), search(all[middle:])
	code := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: all[middle].first, SkipFalse: 1},
		bpf.Jump{Skip: uint32(len(low))},
	}
	return slices.Concat(code, low, high)
}

// noMatch stands for the distance to the end of a rule, until that is known.
const noMatch = 255

// conditions is the code for one call with rules that look at its arguments.
func conditions(rules []rule, fallback uint32) ([]bpf.Instruction, error) {
	var code []bpf.Instruction
	for _, r := range rules {
		if len(r.args) == 0 {
			return answer(r.verdict), nil
		}
		var one []bpf.Instruction
		for _, a := range r.args {
			compare, err := compare(a)
			if err != nil {
				return nil, err
			}
			one = append(one, compare...)
		}
		one = append(one, answer(r.verdict)...)
		if len(one) >= noMatch {
			return nil, fmt.Errorf("%w: a rule has %d arguments", ErrUnsupported, len(r.args))
		}
		code = append(code, patched(one)...)
	}
	return append(code, answer(fallback)...), nil
}

// patched puts the distance to the end in the place of noMatch.
func patched(code []bpf.Instruction) []bpf.Instruction {
	for i := range code {
		j, ok := code[i].(bpf.JumpIf)
		if !ok {
			continue
		}
		rest := uint8(len(code) - i - 1)
		if j.SkipTrue == noMatch {
			j.SkipTrue = rest
		}
		if j.SkipFalse == noMatch {
			j.SkipFalse = rest
		}
		code[i] = j
	}
	return code
}

// compare goes on after itself if the argument matches. Arguments have 64 bits and
// are looked at by halves.
func compare(a specs.LinuxSeccompArg) ([]bpf.Instruction, error) {
	if a.Index > 5 {
		return nil, fmt.Errorf("%w: argument %d", ErrUnsupported, a.Index)
	}
	low := bpf.LoadAbsolute{Off: offArgs + 8*uint32(a.Index), Size: 4}
	high := bpf.LoadAbsolute{Off: low.Off + 4, Size: 4}
	lowValue, highValue := uint32(a.Value), uint32(a.Value>>32)
	switch a.Op {
	case specs.OpEqualTo:
		return []bpf.Instruction{
			high, bpf.JumpIf{Cond: bpf.JumpEqual, Val: highValue, SkipFalse: noMatch},
			low, bpf.JumpIf{Cond: bpf.JumpEqual, Val: lowValue, SkipFalse: noMatch},
		}, nil
	case specs.OpNotEqual:
		return []bpf.Instruction{
			high, bpf.JumpIf{Cond: bpf.JumpEqual, Val: highValue, SkipFalse: 2},
			low, bpf.JumpIf{Cond: bpf.JumpEqual, Val: lowValue, SkipTrue: noMatch},
		}, nil
	case specs.OpLessThan:
		return []bpf.Instruction{
			high,
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: highValue, SkipTrue: noMatch},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: highValue, SkipFalse: 2},
			low, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: lowValue, SkipTrue: noMatch},
		}, nil
	case specs.OpMaskedEqual:
		lowWant, highWant := uint32(a.ValueTwo), uint32(a.ValueTwo>>32)
		return []bpf.Instruction{
			high, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: highValue},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: highWant, SkipFalse: noMatch},
			low, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: lowValue},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: lowWant, SkipFalse: noMatch},
		}, nil
	}
	return nil, fmt.Errorf("%w: comparison %s", ErrUnsupported, a.Op)
}
