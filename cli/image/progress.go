package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/jsonstream"
)

// showProgress prints a stream of progress messages and returns the error that
// the stream carries, if any. On a terminal a line is kept per layer and
// redrawn; else each change of status is a line, without the counters.
func showProgress(r io.Reader, w io.Writer, terminal bool) error {
	dec := json.NewDecoder(r)
	lines := map[string]int{} // layer -> line, counted from the first
	for {
		var m jsonstream.Message
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read progress: %w", err)
		}
		switch {
		case m.Error != nil:
			return m.Error
		case m.Aux != nil:
		case m.ID != "" && terminal:
			redraw(w, lines, m)
		case m.Progress != nil && (m.Progress.Current != 0 || m.Progress.Total != 0):
			// counters make no sense in a log
		case m.Stream != "":
			fmt.Fprint(w, m.Stream)
		case m.ID != "":
			fmt.Fprintf(w, "%s: %s\n", m.ID, m.Status)
		case m.Status != "":
			lines = map[string]int{}
			fmt.Fprintln(w, m.Status)
		}
	}
}

// redraw writes m on its layer's line: up, erase, write, down again.
func redraw(w io.Writer, lines map[string]int, m jsonstream.Message) {
	at, known := lines[m.ID]
	if !known {
		at = len(lines)
		lines[m.ID] = at
		fmt.Fprintln(w)
	}
	up := len(lines) - at
	fmt.Fprintf(w, "\x1b[%dA\x1b[2K\r%s: %s%s\x1b[%dB\r", up, m.ID, m.Status, bar(m.Progress), up)
}

// bar draws how far a transfer is: [====>    ]  1.2MB/3MB.
func bar(p *jsonstream.Progress) string {
	if p == nil || p.Current <= 0 {
		return ""
	}
	if p.Total <= 0 {
		return " " + units.HumanSize(float64(p.Current))
	}
	const width = 30
	done := int(min(p.Current, p.Total) * width / p.Total)
	return fmt.Sprintf(" [%s>%s] %s/%s", strings.Repeat("=", done), strings.Repeat(" ", width-done),
		units.HumanSize(float64(p.Current)), units.HumanSize(float64(p.Total)))
}
