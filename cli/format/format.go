// Package format prints lists the way docker does: tables with a header,
// Go templates, JSON.
package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
)

// Column is a field of a table: the key that templates use, its header, and
// its name in the raw form; "" leaves it out there.
type Column struct{ Key, Header, Raw string }

// labelKey starts the keys under which a row keeps single labels.
const labelKey = "Label\x00"

// SetLabels gives row the column Labels, and its templates the method Label.
func SetLabels(row, labels map[string]string) {
	all := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, k+"="+labels[k])
		row[labelKey+k] = labels[k]
	}
	row["Labels"] = strings.Join(all, ",")
}

// cells is a row as templates see it.
type cells map[string]string

// Label is the value of one label.
func (c cells) Label(name string) string { return c[labelKey+name] }

// header is the first line of a table as templates see it.
type header map[string]string

// Label is the heading of one label's column.
func (header) Label(name string) string { return name }

// Rows prints items, each a map of the columns' keys to text, in the form that
// spec names: "" or "table" for the columns of shown, "table TEMPLATE", "json",
// "raw" for a line per column that has a raw name, or a template per line. all
// has the header of every key.
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
		for _, it := range items {
			if err := enc.Encode(Public(it)); err != nil {
				return err
			}
		}
		return nil
	case spec == "raw" && slices.ContainsFunc(all, func(c Column) bool { return c.Raw != "" }):
		return raw(w, all, items)
	case strings.HasPrefix(spec, "table "):
		return table(w, unescape(strings.TrimSpace(strings.TrimPrefix(spec, "table "))), headers, items)
	default:
		t, err := parse(unescape(spec), functions)
		if err != nil {
			return fmt.Errorf("failed to parse template: %w", err)
		}
		for _, it := range items {
			if err := line(w, t, cells(it)); err != nil {
				return fmt.Errorf("failed to execute template: %w", err)
			}
		}
		return nil
	}
}

// Public is row without what only templates reach.
func Public(row map[string]string) map[string]string {
	row = maps.Clone(row)
	maps.DeleteFunc(row, func(k, _ string) bool { return strings.HasPrefix(k, labelKey) })
	return row
}

// raw prints "name: value" lines with an empty line after each item.
func raw(w io.Writer, all []Column, items []map[string]string) error {
	for _, it := range items {
		for _, c := range all {
			value, ok := it[c.Key]
			if c.Raw == "" || !ok {
				continue
			}
			if _, err := fmt.Fprintln(w, strings.TrimSuffix(c.Raw+": "+value, " ")); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

func table(w io.Writer, body string, headers map[string]string, items []map[string]string) error {
	t, err := parse(body, functions)
	if err != nil {
		return fmt.Errorf("failed to parse template: %w", err)
	}
	heading, err := parse(body, headerFunctions)
	if err != nil {
		return fmt.Errorf("failed to parse template: %w", err)
	}
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if err := line(tw, heading, header(headers)); err != nil {
		return fmt.Errorf("failed to execute template: %w", err)
	}
	for _, it := range items {
		if err := line(tw, t, cells(it)); err != nil {
			return fmt.Errorf("failed to execute template: %w", err)
		}
	}
	return tw.Flush()
}

func line(w io.Writer, t *template.Template, data any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return err
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
	t, err := parse(unescape(spec), functions)
	if err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	if err := line(w, t, data); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	return nil
}

func parse(text string, funcs template.FuncMap) (*template.Template, error) {
	return template.New("").Funcs(funcs).Option("missingkey=error").Parse(text)
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
	"join":  join,
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

// headerFunctions leave a heading as it is.
var headerFunctions = func() template.FuncMap {
	same := func(s string, _ ...any) string { return s }
	funcs := maps.Clone(functions)
	for _, name := range []string{"json", "title", "lower", "upper", "truncate", "join"} {
		funcs[name] = same
	}
	return funcs
}()

// join takes any list: objects that this program has no type for hold []any.
func join(list any, separator string) (string, error) {
	v := reflect.ValueOf(list)
	if !v.IsValid() {
		return "", nil
	}
	if v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return "", fmt.Errorf("join %T: not a list", list)
	}
	texts := make([]string, 0, v.Len())
	for i := range v.Len() {
		texts = append(texts, fmt.Sprint(v.Index(i).Interface()))
	}
	return strings.Join(texts, separator), nil
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
