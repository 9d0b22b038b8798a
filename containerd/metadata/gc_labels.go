package metadata

import (
	"strings"
	"time"
)

// The labels that the collector obeys, as containerd's docs/garbage-collection.md
// and core/metadata define them.
const (
	labelRoot   = "containerd.io/gc.root"   // keeps content or a snapshot; any suffix
	labelExpire = "containerd.io/gc.expire" // RFC 3339: an image or lease goes after it, content and snapshots are kept until it
	labelFlat   = "containerd.io/gc.flat"   // a lease holds only what it names

	// References keep the object named by the value: <label>, <label>.<any> or
	// <label>/<any>; for snapshots <label><snapshotter>[/<any>].
	labelRefContent  = "containerd.io/gc.ref.content"
	labelRefImage    = "containerd.io/gc.ref.image"
	labelRefSnapshot = "containerd.io/gc.ref.snapshot."

	// Back references have the object with the label kept by the one named.
	labelBackContent   = "containerd.io/gc.bref.content"
	labelBackImage     = "containerd.io/gc.bref.image"
	labelBackContainer = "containerd.io/gc.bref.container"
	labelBackSnapshot  = "containerd.io/gc.bref.snapshot."

	// A conditional has an image or content kept by a snapshot while the snapshot's
	// value fits: <label>.<snapshotter>[/<any>] = "usedat<2h[,...]|<key>".
	labelCondSnapshot = "containerd.io/gc.cond.snapshot"
	labelCondUsedAt   = "containerd.io/gc.cond.value-usedat" // RFC 3339
)

// expiry returns the time of labelExpire; one that cannot be parsed counts as
// none, which keeps the object.
func expiry(labels map[string]string) (time.Time, bool) {
	v, ok := labels[labelExpire]
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, v)
	return t, err == nil
}

// addRoot makes n a root if its labels say so.
func (g *graph) addRoot(n node, labels map[string]string) {
	at, ok := expiry(labels)
	root := ok && g.future(at)
	for k := range labels {
		root = root || strings.HasPrefix(k, labelRoot)
	}
	if root {
		g.roots = append(g.roots, n)
	}
}

// addLabels adds the references of n's labels in either direction.
func (g *graph) addLabels(n node, labels map[string]string) {
	for k, v := range labels {
		if to, ok := target(n.ns, k, v, labelRefContent, labelRefImage, "", labelRefSnapshot); ok {
			g.refs[n] = append(g.refs[n], to)
		} else if from, ok := target(n.ns, k, v, labelBackContent, labelBackImage, labelBackContainer, labelBackSnapshot); ok {
			g.refs[from] = append(g.refs[from], n)
		} else if rest, ok := strings.CutPrefix(k, labelCondSnapshot); ok && (n.kind == kindImage || n.kind == kindContent) {
			g.addCondition(n, rest, v)
		}
	}
}

// target returns what a label refers to, given the labels of a direction.
func target(ns, k, v, content, image, container, snapshot string) (node, bool) {
	if name, ok := strings.CutPrefix(k, snapshot); ok {
		name, _, _ = strings.Cut(name, "/")
		return node{kind: kindSnapshot, ns: ns, key: name + sep + v}, true
	}
	for _, c := range []struct {
		label string
		kind  kind
	}{{content, kindContent}, {image, kindImage}, {container, kindContainer}} {
		rest, ok := strings.CutPrefix(k, c.label)
		if c.label != "" && ok && (rest == "" || rest[0] == '.' || rest[0] == '/') {
			return node{kind: c.kind, ns: ns, key: v}, true
		}
	}
	return node{}, false
}

// condition has from keep to while one of to's values fits.
type condition struct {
	from, to node
	fits     func(age time.Duration) bool
}

// usedAt is a value of a snapshot.
type usedAt time.Time

// addCondition parses a conditional label. What it does not understand it ignores,
// as containerd does.
func (g *graph) addCondition(n node, rest, value string) {
	snapshotter, _, _ := strings.Cut(strings.TrimLeft(rest, "./"), "/")
	terms, key, ok := strings.Cut(value, "|")
	if !ok {
		return
	}
	to := node{kind: kindSnapshot, ns: n.ns, key: snapshotter + sep + key}
	for term := range strings.SplitSeq(terms, ",") {
		i := strings.IndexAny(term, "!<>=")
		if i < 0 || term[:i] != "usedat" {
			continue
		}
		limit, err := time.ParseDuration(term[i+1:])
		if err != nil {
			continue
		}
		switch term[i] {
		case '<':
			g.conditions = append(g.conditions, condition{n, to, func(age time.Duration) bool { return age < limit }})
		case '>':
			g.conditions = append(g.conditions, condition{n, to, func(age time.Duration) bool { return age > limit }})
		}
	}
}

func (g *graph) addUsedAt(n node, labels map[string]string) {
	for k, v := range labels {
		if !strings.HasPrefix(k, labelCondUsedAt) {
			continue
		}
		if t, err := time.Parse(time.RFC3339, v); err == nil {
			g.values[n] = append(g.values[n], usedAt(t))
		}
	}
}

// applyConditions turns the conditions that fit into references, after all values
// are known.
func (g *graph) applyConditions() {
	for _, c := range g.conditions {
		for _, at := range g.values[c.to] {
			if c.fits(g.now.Sub(time.Time(at))) {
				g.refs[c.from] = append(g.refs[c.from], c.to)
				break
			}
		}
	}
}
