package image

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
)

// Filters are the parsed filters of a list or prune request: key, then the set
// of values.
type Filters map[string]map[string]bool

var (
	listFilters  = []string{"before", "dangling", "label", "label!", "reference", "since", "until"}
	pruneFilters = []string{"dangling", "label", "label!", "until"}
)

// values returns the values of key in a fixed order.
func (f Filters) values(key string) []string {
	var out []string
	for v, on := range f[key] {
		if on {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

// boolean returns the one value of key, or def if it is absent.
func (f Filters) boolean(key string, def bool) (bool, error) {
	values := f.values(key)
	if len(values) == 0 {
		return def, nil
	}
	on, err := strconv.ParseBool(values[0])
	if err != nil || len(values) > 1 {
		return false, invalid("invalid filter '%s=%s'", key, values)
	}
	return on, nil
}

// filter returns the condition that f sets on records.
func (s *Service) filter(ctx context.Context, f Filters, known []string) (func(images.Image) bool, error) {
	for key := range f {
		if !slices.Contains(known, key) {
			return nil, invalid("invalid filter '%s'", key)
		}
	}
	var conds []func(images.Image) bool
	add := func(c func(images.Image) bool) { conds = append(conds, c) }

	for _, key := range []string{"before", "since"} {
		for _, ref := range f.values(key) {
			img, err := s.find(ctx, ref)
			if err != nil {
				return nil, err
			}
			at, ok := s.created(ctx, img)
			if !ok {
				continue
			}
			add(func(c images.Image) bool {
				t, ok := s.created(ctx, c)
				return ok && (key == "before" && t.Before(at) || key == "since" && t.After(at))
			})
		}
	}
	for _, v := range f.values("until") {
		until, err := parseTime(v, time.Now())
		if err != nil {
			return nil, err
		}
		add(func(c images.Image) bool { return c.CreatedAt.Before(until) })
	}
	if _, ok := f["dangling"]; ok {
		want, err := f.boolean("dangling", false)
		if err != nil {
			return nil, err
		}
		add(func(c images.Image) bool { return isDangling(c) == want })
	}
	if refs := f.values("reference"); len(refs) > 0 {
		for _, pattern := range refs {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, invalid("invalid filter 'reference=%s'", pattern)
			}
		}
		add(func(c images.Image) bool {
			named, err := reference.ParseNormalizedNamed(c.Name)
			if err != nil {
				return false
			}
			return slices.ContainsFunc(refs, func(pattern string) bool {
				ok, err := reference.FamiliarMatch(pattern, named)
				return err == nil && ok
			})
		})
	}
	if checks := labelChecks(f); len(checks) > 0 {
		add(func(c images.Image) bool { return s.labelsMatch(ctx, c, checks) })
	}
	return func(img images.Image) bool {
		for _, c := range conds {
			if !c(img) {
				return false
			}
		}
		return true
	}, nil
}

// created returns when the host's variant of an image was made.
func (s *Service) created(ctx context.Context, img images.Image) (time.Time, bool) {
	v, err := s.choose(ctx, img, img.Name, nil)
	if err != nil || v.config.Created == nil {
		return time.Time{}, false
	}
	return *v.config.Created, true
}

// labelCheck is one value of the filters label and label!.
type labelCheck struct {
	key, value string
	hasValue   bool
	negate     bool
}

func labelChecks(f Filters) []labelCheck {
	var checks []labelCheck
	for _, name := range []string{"label", "label!"} {
		for _, v := range f.values(name) {
			c := labelCheck{negate: name == "label!"}
			c.key, c.value, c.hasValue = strings.Cut(v, "=")
			if key, ok := strings.CutSuffix(c.key, "!"); ok { // "key!=value"
				c.key, c.negate = key, !c.negate
			}
			checks = append(checks, c)
		}
	}
	return checks
}

func (c labelCheck) match(labels map[string]string) bool {
	v, ok := labels[c.key]
	if c.hasValue {
		return ok && (v == c.value) != c.negate
	}
	return ok != c.negate
}

// labelsMatch reports whether any variant of img passes all checks.
func (s *Service) labelsMatch(ctx context.Context, img images.Image, checks []labelCheck) bool {
	all, err := s.variants(ctx, img.Target)
	if err != nil {
		s.log.Warn("cannot read labels of image", "image", img.Name, "err", err)
		return false
	}
	return slices.ContainsFunc(all, func(v variant) bool {
		for _, c := range checks {
			if !c.match(v.config.Config.Labels) {
				return false
			}
		}
		return true
	})
}

// parseTime parses the time of an until filter: a duration before now, Unix
// seconds with an optional fraction, or a date.
func parseTime(v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	if sec, frac, _ := strings.Cut(v, "."); sec != "" {
		n, err := strconv.ParseInt(sec, 10, 64)
		if err == nil {
			nanos := int64(0)
			if frac != "" {
				nanos, err = strconv.ParseInt((frac + "000000000")[:9], 10, 64)
			}
			if err == nil {
				return time.Unix(n, nanos), nil
			}
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("invalid filter 'until=%s': not a duration, timestamp or date", v)
}
