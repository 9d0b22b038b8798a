// Package daemon is what the mains of the daemons share: the dialogue with the
// service manager, the form of their logs, and help with a mistyped key.
package daemon

import (
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
)

// Notify tells the service manager a state such as "READY=1", see sd_notify(3).
// Without a service manager it does nothing.
func Notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // "@" is abstract to net too
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

// NewLogger writes records as the stock daemons do: RFC 3339 times in UTC with
// nanoseconds, levels in lower case; as JSON when asked to, else as text.
func NewLogger(w io.Writer, level slog.Leveler, json bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case len(groups) > 0:
		case a.Key == slog.TimeKey:
			return slog.String(a.Key, a.Value.Time().UTC().Format("2006-01-02T15:04:05.000000000Z07:00"))
		case a.Key == slog.LevelKey:
			return slog.String(a.Key, strings.ToLower(strings.ReplaceAll(a.Value.String(), "WARN", "WARNING")))
		}
		return a
	}}
	if json {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// Nearest returns the known word that takes the fewest edits to become from
// word, "" when none is known.
func Nearest(word string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	return slices.MinFunc(known, func(a, b string) int { return distance(word, a) - distance(word, b) })
}

// distance is the edit distance of a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := corner
			if a[i] != b[j] {
				next = 1 + min(corner, row[j], row[j+1])
			}
			corner, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
