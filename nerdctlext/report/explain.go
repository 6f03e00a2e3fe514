package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// ExplainOption asks the daemon for an explanation, and is the name under which it
// answers, and keeps the answer in its history, in JSON.
const ExplainOption = "kiln.explain"

// explanation is the daemon's answer: why steps ran.
type explanation struct {
	Steps []explainedStep `json:"steps"`
	More  int             `json:"more"`
}

type explainedStep struct {
	Name    string            `json:"name"`
	Why     string            `json:"why"` // new, fresh, lost or changed
	Since   *time.Time        `json:"since"`
	Changes []explainedChange `json:"changes"`
	More    int               `json:"more"`
}

type explainedChange struct {
	What  string          `json:"what"`
	Old   string          `json:"old"`
	New   string          `json:"new"`
	Input string          `json:"input"`
	Ran   bool            `json:"ran"`
	Files []explainedFile `json:"files"`
	More  int             `json:"more"`
}

type explainedFile struct {
	Path string `json:"path"`
	Kind string `json:"kind"` // added, removed or modified
}

// Explain prints why steps ran, as the daemon says in what it has exported.
func Explain(out io.Writer, exported map[string]string) error {
	text, ok := exported[ExplainOption]
	if !ok {
		fmt.Fprintln(out, "warning: this daemon does not explain what it runs")
		return nil
	}
	var x explanation
	if err := json.Unmarshal([]byte(text), &x); err != nil {
		return fmt.Errorf("the daemon's explanation: %w", err)
	}
	if len(x.Steps) == 0 {
		fmt.Fprintln(out, "no step ran: everything was in the cache")
		return nil
	}
	fmt.Fprintln(out, "why these steps ran:")
	for _, s := range x.Steps {
		fmt.Fprintf(out, "  %s\n", oneLine(s.Name))
		for _, line := range s.lines() {
			fmt.Fprintf(out, "    %s\n", line)
		}
	}
	if x.More > 0 {
		fmt.Fprintf(out, "  and %d more steps\n", x.More)
	}
	return nil
}

func (s explainedStep) lines() []string {
	switch s.Why {
	case "new":
		return []string{"nothing like it has run here before"}
	case "fresh":
		return []string{"it was told to ignore the cache"}
	case "lost":
		return []string{"nothing changed, but its earlier result has been removed"}
	}
	var lines []string
	for _, c := range s.Changes {
		lines = append(lines, c.lines()...)
	}
	if s.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more differences", s.More))
	}
	return lines
}

func (c explainedChange) lines() []string {
	switch {
	case c.What == "content" && len(c.Files) == 0:
		return []string{"what it reads of " + oneLine(c.Input) + " changed"}
	case c.What == "content":
		lines := []string{"files of " + oneLine(c.Input) + " changed:"}
		for _, f := range c.Files {
			lines = append(lines, "  "+f.Kind+" "+oneLine(f.Path))
		}
		if c.More > 0 {
			lines = append(lines, fmt.Sprintf("  and %d more", c.More))
		}
		return lines
	case c.What == "input" && c.Ran:
		return []string{"it stands on " + oneLine(c.Input) + ", which ran"}
	case c.What == "input":
		return []string{"it stands on another result of " + oneLine(c.Input)}
	case c.What == "other":
		return []string{"another option of it changed"}
	case c.Old == "":
		return []string{c.What + " is new: " + oneLine(c.New)}
	case c.New == "":
		return []string{c.What + " is gone, it was: " + oneLine(c.Old)}
	}
	return []string{c.What + " was: " + oneLine(c.Old), strings.Repeat(" ", len(c.What)) + "  is: " + oneLine(c.New)}
}

// oneLine keeps what the daemon says from breaking the lines, or the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
