// Package report asks a daemon what it holds and prints it: as tables for people, or
// through a template for programs. The JSON of its values is that of buildctl.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"

	"github.com/tonistiigi/units"
)

// Template is a parsed --format; nil prints a table.
type Template = template.Template

// ParseTemplate parses a --format: a Go template with the function json, or the word
// json for the whole value. Empty text is no template.
func ParseTemplate(text string) (*Template, error) {
	switch text {
	case "":
		return nil, nil
	case "json":
		text = "{{json .}}"
	}
	return template.New("format").Funcs(template.FuncMap{"json": toJSON}).Parse(text)
}

func toJSON(value any) (string, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return "", err
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

// line applies the template to one value and ends the line.
func line(out io.Writer, format *Template, value any) error {
	if err := format.Execute(out, value); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out)
	return err
}

func table(out io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(out, 1, 8, 1, '\t', 0)
}

// size writes bytes in decimal units with two decimals, as in 1.23MB.
func size(bytes int64) string { return fmt.Sprintf("%.2f", units.Bytes(bytes)) }
