package log

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// record is an entry of a log. Its slices are valid until the next one is read.
type record struct {
	text    []byte // with the newline, unless more of the line follows
	stderr  bool
	attrs   []byte // a JSON object, or nothing
	rawTime []byte // as the json-file format writes it; nanos then has to be parsed
	nanos   int64  // Unix time
	timed   bool   // nanos is set
	part    Partial

	unescaped []byte // room for a text with escapes
}

// Partial says which piece of a long line a record is; the zero value says that
// it is a whole line.
type Partial struct {
	ID      string
	Ordinal int
	Last    bool
}

// unixNano returns the record's time; of an unreadable one the zero time.
func (r *record) unixNano() int64 {
	if !r.timed {
		r.timed = true
		n, ok := parseTime(r.rawTime)
		if !ok {
			if t, err := time.Parse(time.RFC3339Nano, string(r.rawTime)); err == nil {
				n = t.UnixNano()
			}
		}
		r.nanos = n
	}
	return r.nanos
}

// format is one way of writing records to a file.
type format interface {
	// split returns how long the first record of data is, 0 when it is not
	// complete, and negative when it can't be one: the rest of the file is lost.
	split(data []byte) int
	// parse reads a record that split has found.
	parse(raw []byte, r *record) bool
}

// jsonLines is the json-file format.
type jsonLines struct{}

func (jsonLines) split(data []byte) int { return bytes.IndexByte(data, '\n') + 1 }

var (
	jsonStart  = []byte(`{"log":"`)
	jsonStdout = []byte(`,"stream":"stdout",`)
	jsonStderr = []byte(`,"stream":"stderr",`)
	jsonAttrs  = []byte(`"attrs":`)
	jsonTime   = []byte(`"time":"`)
	jsonEnd    = []byte("\"}\n")
)

// parse reads the lines that Docker and the shim write with a few comparisons,
// and any other JSON object of the same fields with encoding/json.
func (jsonLines) parse(raw []byte, r *record) bool {
	r.attrs, r.timed, r.part = nil, false, Partial{}
	if !r.parseUsual(raw) {
		return r.parseAny(raw)
	}
	return true
}

func (r *record) parseUsual(raw []byte) bool {
	if !bytes.HasPrefix(raw, jsonStart) || !bytes.HasSuffix(raw, jsonEnd) {
		return false
	}
	rest := raw[len(jsonStart) : len(raw)-len(jsonEnd)]
	rest = r.takeText(rest)
	switch {
	case bytes.HasPrefix(rest, jsonStdout):
		r.stderr = false
	case bytes.HasPrefix(rest, jsonStderr):
		r.stderr = true
	default:
		return false
	}
	rest = rest[len(jsonStdout):]
	if bytes.HasPrefix(rest, jsonAttrs) {
		// The time has no quotes in it, so the last of them start it.
		at := bytes.LastIndexByte(rest, '"') + 1 - len(jsonTime)
		if at < len(jsonAttrs)+1 || rest[at-1] != ',' {
			return false
		}
		r.attrs, rest = rest[len(jsonAttrs):at-1], rest[at:]
	}
	if !bytes.HasPrefix(rest, jsonTime) {
		return false
	}
	r.rawTime = rest[len(jsonTime):]
	return bytes.IndexByte(r.rawTime, '"') < 0
}

// takeText sets r.text from the JSON string that data starts in, and returns what
// follows its end; nothing when it is malformed.
func (r *record) takeText(data []byte) []byte {
	end := bytes.IndexByte(data, '"')
	if end < 0 {
		return nil
	}
	text := data[:end]
	escape := bytes.IndexByte(text, '\\')
	if escape < 0 {
		r.text = text
		return data[end+1:]
	}
	if escape == end-2 && text[end-1] == 'n' {
		r.unescaped = append(append(r.unescaped[:0], text[:escape]...), '\n')
		r.text = r.unescaped
		return data[end+1:]
	}
	out := append(r.unescaped[:0], data[:escape]...)
	data = data[escape:]
	for len(data) > 0 {
		switch data[0] {
		case '"':
			r.unescaped, r.text = out, out
			return data[1:]
		case '\\':
			var n int
			if out, n = unescape(out, data); n == 0 {
				return nil
			}
			data = data[n:]
		default:
			n := bytes.IndexAny(data, `"\`)
			if n < 0 {
				return nil
			}
			out, data = append(out, data[:n]...), data[n:]
		}
	}
	return nil
}

// unescape appends what the escape at the start of data means and returns its
// length, 0 for one that is malformed.
func unescape(out, data []byte) ([]byte, int) {
	if len(data) < 2 {
		return out, 0
	}
	switch c := data[1]; c {
	case '"', '\\', '/':
		return append(out, c), 2
	case 'n':
		return append(out, '\n'), 2
	case 'r':
		return append(out, '\r'), 2
	case 't':
		return append(out, '\t'), 2
	case 'b':
		return append(out, '\b'), 2
	case 'f':
		return append(out, '\f'), 2
	case 'u':
		u, ok := hex4(data)
		if !ok {
			return out, 0
		}
		if !utf16.IsSurrogate(u) {
			return utf8.AppendRune(out, u), 6
		}
		if low, ok := hex4(data[6:]); ok {
			if full := utf16.DecodeRune(u, low); full != utf8.RuneError {
				return utf8.AppendRune(out, full), 12
			}
		}
		return utf8.AppendRune(out, utf8.RuneError), 6
	}
	return out, 0
}

// hex4 reads \uXXXX.
func hex4(data []byte) (rune, bool) {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	var u rune
	for _, c := range data[2:6] {
		switch {
		case '0' <= c && c <= '9':
			u = u<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			u = u<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return u, true
}

func (r *record) parseAny(raw []byte) bool {
	var any struct {
		Log    string          `json:"log"`
		Stream string          `json:"stream"`
		Attrs  json.RawMessage `json:"attrs"`
		Time   time.Time       `json:"time"`
	}
	if err := json.Unmarshal(raw, &any); err != nil || any.Stream == "" {
		return false
	}
	r.text, r.stderr, r.attrs = []byte(any.Log), any.Stream == "stderr", any.Attrs
	r.nanos, r.timed = any.Time.UnixNano(), true
	return true
}

// details returns attributes as docker logs --details shows them.
func details(raw []byte) string {
	var attrs map[string]string
	if len(raw) == 0 || json.Unmarshal(raw, &attrs) != nil {
		return ""
	}
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		pairs = append(pairs, url.QueryEscape(key)+"="+url.QueryEscape(attrs[key]))
	}
	return strings.Join(pairs, ",")
}

// parseTime reads the form of RFC 3339 that logs hold: UTC, with up to nine
// digits of fraction.
func parseTime(b []byte) (unixNano int64, ok bool) {
	const layout = "2006-01-02T15:04:05"
	if len(b) < len(layout)+1 || b[len(b)-1] != 'Z' || b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	ok = true
	num := func(from, to int) (n int64) {
		for _, c := range b[from:to] {
			ok = ok && '0' <= c && c <= '9'
			n = n*10 + int64(c-'0')
		}
		return n
	}
	year, month, day := num(0, 4), num(5, 7), num(8, 10)
	sec := daysSinceEpoch(year, month, day)*86400 + num(11, 13)*3600 + num(14, 16)*60 + num(17, 19)
	ok = ok && 1 <= month && month <= 12
	nanos := int64(0)
	if frac := len(b) - 1 - len(layout); frac > 0 {
		if b[len(layout)] != '.' || frac < 2 || frac > 10 {
			return 0, false
		}
		nanos = num(len(layout)+1, len(b)-1)
		for range 10 - frac {
			nanos *= 10
		}
	}
	return sec*int64(time.Second) + nanos, ok
}

// appendTime appends the time in timeFormat.
func (r *record) appendTime(buf []byte) []byte {
	const seconds = len("2006-01-02T15:04:05")
	if raw := r.rawTime; !r.timed {
		if _, ok := parseTime(raw); ok { // then only zeros are missing
			frac := raw[seconds : len(raw)-1]
			buf = append(buf, raw[:seconds]...)
			if len(frac) == 0 {
				frac = []byte{'.'}
			}
			return append(append(append(buf, frac...), "000000000"[len(frac)-1:]...), 'Z')
		}
	}
	return time.Unix(0, r.unixNano()).UTC().AppendFormat(buf, timeFormat)
}

// daysSinceEpoch counts from 1 January 1970 in the Gregorian calendar, with years
// that start in March, so that the leap day is the last.
func daysSinceEpoch(year, month, day int64) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 1 - 719468
}
