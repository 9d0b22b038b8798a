package image

import "strings"

// words splits s as a shell does: at blanks outside quotes, with variables of
// the image's environment substituted.
func (c *changer) words(s string) ([]string, error) { return lex(s, c.getenv, true) }

// expand is words for a value that is one word with its blanks.
func (c *changer) expand(s string) (string, error) {
	words, err := lex(s, c.getenv, false)
	if err != nil || len(words) == 0 {
		return "", err
	}
	return words[0], nil
}

func (c *changer) getenv(name string) (string, bool) {
	for _, e := range c.cfg.Env {
		if k, v, _ := strings.Cut(e, "="); k == name {
			return v, true
		}
	}
	return "", false
}

// maxExpanded bounds what variables can blow a line up to.
const maxExpanded = 1 << 20

// lexer reads shell words. Quotes, backslashes, $name, ${name}, ${name:-word}
// and ${name:+word} have their meaning.
type lexer struct {
	s      string
	pos    int
	getenv func(string) (string, bool)
	size   int // of all that was written
}

func lex(s string, getenv func(string) (string, bool), split bool) ([]string, error) {
	l := &lexer{s: s, getenv: getenv}
	var words []string
	var word strings.Builder
	in := false // a word has begun, perhaps an empty quoted one
	for l.pos < len(l.s) {
		ch := l.s[l.pos]
		if split && (ch == ' ' || ch == '\t') {
			l.pos++
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
			continue
		}
		in = true
		text, err := l.next()
		if err != nil {
			return nil, err
		}
		word.WriteString(text)
		if l.size += len(text); l.size > maxExpanded {
			return nil, invalid("line expands to more than %d bytes", maxExpanded)
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

// next reads one character, quoted string, or variable.
func (l *lexer) next() (string, error) {
	ch := l.s[l.pos]
	switch ch {
	case '\'':
		end := strings.IndexByte(l.s[l.pos+1:], '\'')
		if end < 0 {
			return "", invalid("unexpected end of statement while looking for matching single-quote")
		}
		text := l.s[l.pos+1 : l.pos+1+end]
		l.pos += end + 2
		return text, nil
	case '"':
		return l.quoted()
	case '\\':
		l.pos++
		if l.pos == len(l.s) {
			return `\`, nil
		}
		l.pos++
		return l.s[l.pos-1 : l.pos], nil
	case '$':
		return l.variable(0)
	}
	l.pos++
	return l.s[l.pos-1 : l.pos], nil
}

func (l *lexer) quoted() (string, error) {
	var b strings.Builder
	for l.pos++; l.pos < len(l.s); {
		switch ch := l.s[l.pos]; ch {
		case '"':
			l.pos++
			return b.String(), nil
		case '$':
			text, err := l.variable(0)
			if err != nil {
				return "", err
			}
			b.WriteString(text)
		case '\\':
			// Only these are special inside double quotes.
			if l.pos+1 < len(l.s) && strings.IndexByte("\"$\\", l.s[l.pos+1]) >= 0 {
				l.pos++
			}
			b.WriteByte(l.s[l.pos])
			l.pos++
		default:
			b.WriteByte(ch)
			l.pos++
		}
		if b.Len() > maxExpanded {
			return "", invalid("line expands to more than %d bytes", maxExpanded)
		}
	}
	return "", invalid("unexpected end of statement while looking for matching double-quote")
}

// maxNesting bounds variables inside the defaults of variables.
const maxNesting = 16

// variable reads what begins with a dollar sign.
func (l *lexer) variable(depth int) (string, error) {
	if depth > maxNesting {
		return "", invalid("variables nest too deep")
	}
	l.pos++
	if l.pos == len(l.s) {
		return "$", nil
	}
	if l.s[l.pos] != '{' {
		name := l.name()
		if name == "" {
			return "$", nil
		}
		v, _ := l.getenv(name)
		return v, nil
	}
	l.pos++
	name := l.name()
	if name == "" || l.pos == len(l.s) {
		return "", invalid("unexpected end of statement or bad substitution in %.64q", l.s)
	}
	v, set := l.getenv(name)
	if l.s[l.pos] == '}' {
		l.pos++
		return v, nil
	}
	colon := l.s[l.pos] == ':'
	if colon {
		l.pos++
		set = set && v != ""
	}
	if l.pos == len(l.s) || l.s[l.pos] != '-' && l.s[l.pos] != '+' {
		return "", invalid("unsupported modifier in substitution: %.64q", l.s)
	}
	plus := l.s[l.pos] == '+'
	var word strings.Builder
	for l.pos++; l.pos < len(l.s) && l.s[l.pos] != '}'; {
		var text string
		var err error
		if l.s[l.pos] == '$' {
			text, err = l.variable(depth + 1)
		} else {
			text, err = l.next()
		}
		if err != nil {
			return "", err
		}
		word.WriteString(text)
		if word.Len() > maxExpanded {
			return "", invalid("line expands to more than %d bytes", maxExpanded)
		}
	}
	if l.pos == len(l.s) {
		return "", invalid("syntax error: missing '}' in %.64q", l.s)
	}
	l.pos++
	switch {
	case plus && set, !plus && !set:
		return word.String(), nil
	case plus:
		return "", nil
	}
	return v, nil
}

func (l *lexer) name() string {
	start := l.pos
	for l.pos < len(l.s) {
		ch := l.s[l.pos]
		letter := ch == '_' || ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z'
		if !letter && (ch < '0' || ch > '9' || l.pos == start) {
			break
		}
		l.pos++
	}
	return l.s[start:l.pos]
}
