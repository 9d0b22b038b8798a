package format

import (
	"strings"
	"testing"
)

func TestRows(t *testing.T) {
	row := map[string]string{"ID": "1", "Name": "<a>"}
	SetLabels(row, map[string]string{"k": "v,w", "a": "b"})
	columns := []Column{{Key: "ID", Header: "THING ID", Raw: "thing_id"}, {Key: "Name", Header: "NAME", Raw: "name"}, {Key: "Labels", Header: "LABELS"}}
	for _, tc := range []struct{ name, spec, want, wantErr string }{
		{name: "plain", want: "THING ID   NAME\n1          <a>\n"},
		{name: "table", spec: "table", want: "THING ID   NAME\n1          <a>\n"},
		{name: "json", spec: "json", want: `{"ID":"1","Labels":"a=b,k=v,w","Name":"\u003ca\u003e"}` + "\n"},
		{name: "raw", spec: "raw", want: "thing_id: 1\nname: <a>\n\n"},
		{name: "template", spec: `{{.ID}}\t{{upper .Name}}`, want: "1\t<A>\n"},
		{name: "functions", spec: `{{json .Name}} {{lower "AB"}} {{title "ab"}} {{pad "x" 1 2}}| {{truncate "abcdef" 3}} {{join (split "a,b" ",") "-"}} {{println "x"}}`,
			want: `"<a>" ab Ab  x  | abc a-b x` + "\n\n"},
		{name: "label", spec: `{{.Label "k"}} {{.Label "none"}}.`, want: "v,w .\n"},
		{name: "headings", spec: `table {{json .ID}}\t{{upper .Name}}\t{{.Label "k"}}`, want: "THING ID   NAME      k\n\"1\"        <A>       v,w\n"},
		{name: "unknown key", spec: "{{.Nope}}", wantErr: `failed to execute template: template: :1:2: executing "" at <.Nope>`},
		{name: "unknown function", spec: "{{nope}}", wantErr: `failed to parse template: template: :1: function "nope" not defined`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out strings.Builder
			err := Rows(&out, tc.spec, []string{"ID", "Name"}, columns, []map[string]string{row})
			if (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Fatalf("error = %v, want %q", err, tc.wantErr)
			}
			if err == nil && out.String() != tc.want {
				t.Errorf("got  %q\nwant %q", out.String(), tc.want)
			}
		})
	}
}

func TestJoin(t *testing.T) {
	for _, list := range []any{[]string{"a", "b"}, []any{"a", "b"}} {
		if got, err := join(list, "-"); got != "a-b" || err != nil {
			t.Errorf("join %T = %q, %v", list, got, err)
		}
	}
	if got, err := join(nil, "-"); got != "" || err != nil {
		t.Errorf("join nil = %q, %v", got, err)
	}
	if _, err := join(7, "-"); err == nil {
		t.Error("joined a number")
	}
}
