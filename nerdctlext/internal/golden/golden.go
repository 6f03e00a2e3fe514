// Package golden runs cases that stand in a text file: an input, a line of four dashes,
// and the output that is expected, up to an empty line that is followed by the next
// input or the end. With -update the tests write what they got into the file.
package golden

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the outputs that are got into the golden files")

const divider = "\n----\n"

// Run calls fn with the input of each case in the file and compares what it returns.
// Lines of an input that begin with # are for the reader.
func Run(t *testing.T, path string, fn func(t *testing.T, input string) string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rewritten strings.Builder
	for _, text := range strings.Split(strings.TrimSpace(string(content)), "\n\n") {
		input, want, _ := strings.Cut(text+"\n", divider)
		var lines []string
		for line := range strings.Lines(input) {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, strings.TrimRight(line, "\n"))
			}
		}
		command := strings.Join(lines, "\n")
		got := ""
		t.Run(command, func(t *testing.T) {
			got = strings.TrimSpace(fn(t, command))
			if strings.Contains(got, "\n\n") {
				t.Fatalf("the output has an empty line, which ends a case:\n%s", got)
			}
			if want = strings.TrimSpace(want); got != want && !*update {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
		rewritten.WriteString(strings.TrimRight(input, "\n") + divider + got + "\n\n")
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.TrimSpace(rewritten.String())+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Words splits a command line as a shell does, as far as single and double quotes go.
func Words(line string) []string {
	var words []string
	var word strings.Builder
	quote, inside := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inside = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inside {
				words = append(words, word.String())
				word.Reset()
			}
			inside = false
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	if inside {
		words = append(words, word.String())
	}
	return words
}
