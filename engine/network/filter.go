package network

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/engine/label"

	"github.com/moby/moby/api/types/network"
)

// filter selects networks.
type filter func(*network.Inspect) bool

// newFilter returns the filter of a list request. Values of one key are
// alternatives, except labels; all keys must match.
func newFilter(in map[string]map[string]bool) (filter, error) {
	var all []filter
	for key, values := range in {
		list := selected(values)
		if len(list) == 0 {
			continue
		}
		switch key {
		case "driver":
			all = append(all, func(n *network.Inspect) bool { return slices.Contains(list, n.Driver) })
		case "scope":
			all = append(all, func(n *network.Inspect) bool { return slices.Contains(list, n.Scope) })
		case "name":
			all = append(all, func(n *network.Inspect) bool { return matchAny(list, n.Name) })
		case "id":
			all = append(all, func(n *network.Inspect) bool { return matchAny(list, n.ID) })
		case "label":
			all = append(all, func(n *network.Inspect) bool { return label.Match(n.Labels, slices.Values(list)) })
		case "type":
			for _, v := range list {
				if v != "custom" && v != "builtin" {
					return nil, invalid("invalid filter: 'type'='%s'", v)
				}
			}
			all = append(all, func(n *network.Inspect) bool {
				if predefined(n.Name) {
					return slices.Contains(list, "builtin")
				}
				return slices.Contains(list, "custom")
			})
		case "dangling":
			want, err := strconv.ParseBool(list[0])
			if err != nil || len(list) > 1 {
				return nil, invalid("invalid value for filter 'dangling': must be \"true\" (or \"1\"), or \"false\" (or \"0\")")
			}
			all = append(all, func(n *network.Inspect) bool {
				return !predefined(n.Name) && (len(n.Containers) == 0) == want
			})
		default:
			return nil, invalid("invalid filter '%s'", key)
		}
	}
	return allOf(all), nil
}

// newPruneFilter returns the filter of a prune request at the time now.
func newPruneFilter(in map[string]map[string]bool, now time.Time) (filter, error) {
	var all []filter
	for key, values := range in {
		list := selected(values)
		if len(list) == 0 {
			continue
		}
		switch key {
		case "label":
			all = append(all, func(n *network.Inspect) bool { return label.Match(n.Labels, slices.Values(list)) })
		case "label!":
			all = append(all, func(n *network.Inspect) bool {
				return !slices.ContainsFunc(list, func(l string) bool { return label.Match(n.Labels, slices.Values([]string{l})) })
			})
		case "until":
			if len(list) > 1 {
				return nil, invalid("more than one until filter specified")
			}
			until, err := parseUntil(list[0], now)
			if err != nil {
				return nil, invalid("invalid value for filter 'until': %q", list[0])
			}
			all = append(all, func(n *network.Inspect) bool { return n.Created.Before(until) })
		default:
			return nil, invalid("invalid filter '%s'", key)
		}
	}
	return allOf(all), nil
}

// parseUntil reads a duration before now, Unix seconds or a date.
func parseUntil(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Unix(0, int64(sec*float64(time.Second))), nil
	}
	var err error
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02"} {
		var t time.Time
		if t, err = time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, err
}

func selected(values map[string]bool) []string {
	var list []string
	for v, ok := range values {
		if ok {
			list = append(list, v)
		}
	}
	slices.Sort(list)
	return list
}

func allOf(fs []filter) filter {
	return func(n *network.Inspect) bool {
		return !slices.ContainsFunc(fs, func(f filter) bool { return !f(n) })
	}
}

// matchAny reports whether s is one of the patterns or contains a match of one, a
// regular expression if it parses as one and plain text if not.
func matchAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if p == s {
			return true
		}
		re, err := regexp.Compile(p)
		if err != nil {
			return strings.Contains(s, p)
		}
		return re.MatchString(s)
	})
}

func predefined(name string) bool {
	switch name {
	case network.NetworkBridge, network.NetworkHost, network.NetworkNone, network.NetworkDefault:
		return true
	}
	return false
}
