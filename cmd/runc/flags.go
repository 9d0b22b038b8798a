package main

import (
	"fmt"
	"strconv"
	"strings"
)

// flagSet parses the flags of a command: -x and --x alike, a value after a space or
// an equals sign, one-letter aliases. Package flag would do, but for the lines of
// its usage and for stopping at the first operand only where asked.
type flagSet struct {
	name  string
	flags []*flagDef
	set   map[string]bool   // switches and flags that were given
	given map[string]string // their last values
	all   map[string][]string
}

type flagDef struct {
	names []string // the long one first
	value string   // placeholder; empty for a switch
	help  string
	apply func(string) error
}

func newFlagSet(name string) *flagSet {
	return &flagSet{name: name, set: map[string]bool{}, given: map[string]string{}, all: map[string][]string{}}
}

func (f *flagSet) add(long, short, value, help string, apply func(string) error) {
	d := &flagDef{names: []string{long}, value: value, help: help, apply: apply}
	if short != "" {
		d.names = append(d.names, short)
	}
	f.flags = append(f.flags, d)
}

func (f *flagSet) bool(p *bool, long, short, help string) {
	f.add(long, short, "", help, func(s string) error {
		v, err := strconv.ParseBool(s)
		*p = v
		return err
	})
}

func (f *flagSet) string(p *string, long, short, value, help string) {
	f.add(long, short, value, help, func(s string) error {
		*p = s
		return nil
	})
}

func (f *flagSet) strings(p *[]string, long, short, value, help string) {
	f.add(long, short, value, help, func(s string) error {
		*p = append(*p, s)
		return nil
	})
}

func (f *flagSet) int(p *int, long, short, help string) {
	f.add(long, short, "N", help, func(s string) (err error) {
		*p, err = strconv.Atoi(s)
		return err
	})
}

// parse returns the operands. With stop everything from the first operand on is
// one, flags too.
func (f *flagSet) parse(args []string, stop bool) ([]string, error) {
	var operands []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return append(operands, args[i+1:]...), nil
		}
		if len(a) < 2 || a[0] != '-' {
			if stop {
				return append(operands, args[i:]...), nil
			}
			operands = append(operands, a)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-"), "=")
		d := f.find(name)
		if d == nil {
			return nil, fmt.Errorf("flag provided but not defined: -%s", name)
		}
		if !hasValue {
			if d.value == "" {
				value = "true"
			} else if i++; i < len(args) {
				value = args[i]
			} else {
				return nil, fmt.Errorf("flag needs an argument: -%s", name)
			}
		}
		if err := d.apply(value); err != nil {
			return nil, fmt.Errorf("invalid value %q for flag -%s: %w", value, name, err)
		}
		f.set[d.names[0]] = d.value != "" || value != "false"
		f.given[d.names[0]] = value
		f.all[d.names[0]] = append(f.all[d.names[0]], value)
	}
	return operands, nil
}

// value returns the value of a flag that was given, else fallback.
func (f *flagSet) value(name, fallback string) string {
	if v, ok := f.given[name]; ok {
		return v
	}
	return fallback
}

// list returns all values of a flag.
func (f *flagSet) list(name string) []string { return f.all[name] }

func (f *flagSet) find(name string) *flagDef {
	for _, d := range f.flags {
		for _, n := range d.names {
			if n == name {
				return d
			}
		}
	}
	return nil
}

func (f *flagSet) usage() string {
	var b strings.Builder
	for _, d := range f.flags {
		names := "--" + d.names[0]
		if len(d.names) > 1 {
			names += ", -" + d.names[1]
		}
		if d.value != "" {
			names += " " + d.value
		}
		fmt.Fprintf(&b, "   %-34s %s\n", names, d.help)
	}
	return b.String()
}

// operands checks the number of operands.
func operands(args []string, least, most int) error {
	if len(args) < least || most >= 0 && len(args) > most {
		return fmt.Errorf("wrong number of arguments: %d", len(args))
	}
	return nil
}
