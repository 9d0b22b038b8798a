// Package format prints lists the way docker does: tables with a header,
// Go templates, JSON.
package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
)

// Column is a field of a table: the key that templates use, and its header.
type Column struct{ Key, Header string }

// Rows prints items, each a map of the columns' keys to text, in the form that
// spec names: "" or "table" for the columns of shown, "table TEMPLATE", "json",
// or a template per line. all has the header of every key.
func Rows(w io.Writer, spec string, shown []string, all []Column, items []map[string]string) error {
	headers := make(map[string]string, len(all))
	for _, c := range all {
		headers[c.Key] = c.Header
	}
	switch {
	case spec == "" || spec == "table":
		cells := make([]string, len(shown))
		for i, k := range shown {
			cells[i] = "{{." + k + "}}"
		}
		return table(w, strings.Join(cells, "\t"), headers, items)
	case spec == "json":
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, it := range items {
			if err := enc.Encode(it); err != nil {
				return err
			}
		}
		return nil
	case strings.HasPrefix(spec, "table "):
		return table(w, unescape(strings.TrimSpace(strings.TrimPrefix(spec, "table "))), headers, items)
	default:
		t, err := parse(unescape(spec))
		if err != nil {
			return err
		}
		for _, it := range items {
			if err := line(w, t, it); err != nil {
				return err
			}
		}
		return nil
	}
}

func table(w io.Writer, body string, headers map[string]string, items []map[string]string) error {
	t, err := parse(body)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if err := line(tw, t, headers); err != nil {
		return err
	}
	for _, it := range items {
		if err := line(tw, t, it); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func line(w io.Writer, t *template.Template, data any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return fmt.Errorf("template: %w", err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// Template prints data through a Go template, or as JSON lines for "json".
func Template(w io.Writer, spec string, data any) error {
	if spec == "json" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return enc.Encode(data)
	}
	t, err := parse(unescape(spec))
	if err != nil {
		return err
	}
	return line(w, t, data)
}

func parse(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(functions).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return t, nil
}

// unescape lets a shell user write \t and \n.
func unescape(s string) string { return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s) }

// functions are those that Docker's templates have.
var functions = template.FuncMap{
	"json": func(v any) (string, error) {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		err := enc.Encode(v)
		return strings.TrimSuffix(b.String(), "\n"), err
	},
	"split": strings.Split,
	"join":  strings.Join,
	"title": func(s string) string {
		if s == "" {
			return s
		}
		return strings.ToUpper(s[:1]) + s[1:]
	},
	"lower":   strings.ToLower,
	"upper":   strings.ToUpper,
	"println": fmt.Sprintln,
	"pad": func(s string, before, after int) string {
		if s == "" {
			return s
		}
		return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
	},
	"truncate": func(s string, n int) string {
		if r := []rune(s); len(r) > n {
			return string(r[:n])
		}
		return s
	},
}

// ShortID is the first 12 characters of an ID without its algorithm.
func ShortID(id string) string {
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	return id[:min(len(id), 12)]
}

// Ellipsis cuts text to n characters, the last being "…".
func Ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
