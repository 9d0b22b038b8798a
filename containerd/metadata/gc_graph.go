package metadata

import (
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// kind is the type of a resource in the graph.
type kind uint8

const (
	kindContent kind = iota + 1
	kindSnapshot
	kindImage
	kindContainer
	kindLease
	kindIngest
)

// node is a resource. Of a snapshot the key is SNAPSHOTTER NUL KEY. flat nodes were
// reached through a flat lease: their labels are not followed.
type node struct {
	kind    kind
	ns, key string
	flat    bool
}

// graph is what a transaction says of all resources. One pass over the records builds
// it: labels decide what refers to what, and they are in the records.
type graph struct {
	now     time.Time
	next    time.Time // when something expires next; zero if nothing does
	roots   []node
	refs    map[node][]node // by nodes that are not flat
	flat    map[node][]node // those that flat nodes follow too: parents and targets
	all     []node          // what may be collected
	writing func(ns, ref string) bool

	conditions []condition
	values     map[node][]usedAt
}

// buildGraph reads all records. writing reports whether an ingest has an open writer.
func buildGraph(t *tx, now time.Time, writing func(ns, ref string) bool) (*graph, error) {
	g := &graph{
		now: now, writing: writing,
		refs: make(map[node][]node), flat: make(map[node][]node), values: make(map[node][]usedAt),
	}
	err := errors.Join(
		scanRecords(t, bktLeases, nil, func(rest string, rec leaseRecord) error { return g.addLease(t, rest, rec) }),
		scanRecords(t, bktImages, nil, func(rest string, rec imageRecord) error { g.addImage(rest, rec); return nil }),
		scanRecords(t, bktContainers, nil, func(rest string, rec containerRecord) error { g.addContainer(rest, rec); return nil }),
		scanRecords(t, bktContent, nil, func(rest string, rec contentRecord) error { g.addContent(rest, rec); return nil }),
		scanRecords(t, bktIngests, nil, func(rest string, rec ingestRecord) error { g.addIngest(rest, rec); return nil }),
		scanRecords(t, bktSnapshots, nil, func(rest string, rec snapshotRecord) error { g.addSnapshot(rest, rec); return nil }),
	)
	g.applyConditions()
	return g, err
}

// garbage returns the nodes that no root reaches.
func (g *graph) garbage() []node {
	seen := make(map[node]bool, len(g.all))
	reached := make(map[node]bool, len(g.all))
	stack := append([]node(nil), g.roots...)
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[n] {
			continue
		}
		seen[n] = true
		full := n
		full.flat = false
		reached[full] = true
		if !n.flat {
			stack = append(stack, g.refs[n]...)
		}
		for _, to := range g.flat[full] {
			to.flat = n.flat
			stack = append(stack, to)
		}
	}
	var garbage []node
	for _, n := range g.all {
		if !reached[n] {
			garbage = append(garbage, n)
		}
	}
	return garbage
}

func (g *graph) addLease(t *tx, rest string, rec leaseRecord) error {
	ns, id, _ := strings.Cut(rest, sep)
	n := node{kind: kindLease, ns: ns, key: id}
	g.all = append(g.all, n)
	if at, ok := expiry(rec.Labels); ok && !g.future(at) {
		return nil
	}
	g.roots = append(g.roots, n)
	_, flat := rec.Labels[labelFlat]
	return t.scan(bktLeased, under(ns, id), func(rest string, _ []byte) error {
		typ, key, _ := strings.Cut(rest, sep)
		held := node{ns: ns, key: key, flat: flat}
		snapshotter, isSnapshot := strings.CutPrefix(typ, typeSnapshots+"/")
		switch {
		case typ == typeContent:
			held.kind = kindContent
		case typ == typeImages:
			held.kind = kindImage
		case typ == typeIngests:
			held.kind, held.flat = kindIngest, false
		case isSnapshot:
			held.kind, held.key = kindSnapshot, snapshotter+sep+key
		default:
			return nil
		}
		g.roots = append(g.roots, held)
		return nil
	})
}

// addImage makes an image a root unless it expired; then it may still be referenced.
func (g *graph) addImage(rest string, rec imageRecord) {
	ns, name, _ := strings.Cut(rest, sep)
	n := node{kind: kindImage, ns: ns, key: name}
	if at, ok := expiry(rec.Labels); !ok || g.future(at) {
		g.roots = append(g.roots, n)
	}
	g.all = append(g.all, n)
	g.flat[n] = append(g.flat[n], node{kind: kindContent, ns: ns, key: rec.Digest.String()})
	g.addLabels(n, rec.Labels)
}

func (g *graph) addContainer(rest string, rec containerRecord) {
	ns, id, _ := strings.Cut(rest, sep)
	n := node{kind: kindContainer, ns: ns, key: id}
	g.roots = append(g.roots, n)
	if rec.Snapshotter != "" {
		g.refs[n] = append(g.refs[n], node{kind: kindSnapshot, ns: ns, key: rec.Snapshotter + sep + rec.SnapshotKey})
	}
	g.addLabels(n, rec.Labels)
}

func (g *graph) addContent(rest string, rec contentRecord) {
	ns, dgst, _ := strings.Cut(rest, sep)
	n := node{kind: kindContent, ns: ns, key: dgst}
	g.all = append(g.all, n)
	g.addRoot(n, rec.Labels)
	g.addLabels(n, rec.Labels)
}

func (g *graph) addSnapshot(rest string, rec snapshotRecord) {
	ns, key, _ := strings.Cut(rest, sep)
	n := node{kind: kindSnapshot, ns: ns, key: key}
	g.all = append(g.all, n)
	if rec.Parent != "" {
		snapshotter, _, _ := strings.Cut(key, sep)
		g.flat[n] = append(g.flat[n], node{kind: kindSnapshot, ns: ns, key: snapshotter + sep + rec.Parent})
	}
	g.addRoot(n, rec.Labels)
	g.addLabels(n, rec.Labels)
	g.addUsedAt(n, rec.Labels)
}

func (g *graph) addIngest(rest string, rec ingestRecord) {
	ns, ref, _ := strings.Cut(rest, sep)
	n := node{kind: kindIngest, ns: ns, key: ref}
	g.all = append(g.all, n)
	if !rec.Expire.IsZero() && g.future(rec.Expire) || g.writing(ns, ref) {
		g.roots = append(g.roots, n)
	}
	if rec.Expected != "" {
		g.refs[n] = append(g.refs[n], node{kind: kindContent, ns: ns, key: rec.Expected.String()})
	}
}

// future reports whether a time is still to come, and remembers the next one.
func (g *graph) future(at time.Time) bool {
	if g.now.After(at) {
		return false
	}
	if g.next.IsZero() || at.Before(g.next) {
		g.next = at
	}
	return true
}

// removal is what the files of a collection's garbage are.
type removal struct {
	blobs     []digest.Digest
	ingests   []string // refs in the blob store
	snapshots []removedSnapshot
	images    []node
	nodes     int
}

type removedSnapshot struct {
	ns, snapshotter, key string
	rec                  snapshotRecord
}

// remove deletes the records of garbage.
func (t *tx) remove(garbage []node) (removal, error) {
	r := removal{nodes: len(garbage)}
	for _, n := range garbage {
		if err := t.removeNode(n, &r); err != nil {
			return removal{}, err
		}
	}
	return r, nil
}

func (t *tx) removeNode(n node, r *removal) error {
	switch n.kind {
	case kindContent:
		r.blobs = append(r.blobs, digest.Digest(n.key))
		return t.delete(bktContent, join(n.ns, n.key))
	case kindIngest:
		rec, err := loadIngest(t, n.ns, n.key)
		if err != nil {
			return err
		}
		r.ingests = append(r.ingests, rec.Ref)
		if rec.Expected != "" {
			r.blobs = append(r.blobs, rec.Expected)
		}
		return t.delete(bktIngests, join(n.ns, n.key))
	case kindImage:
		r.images = append(r.images, n)
		return t.delete(bktImages, join(n.ns, n.key))
	case kindLease:
		return t.deleteLease(n.ns, n.key)
	case kindSnapshot:
		snapshotter, key, _ := strings.Cut(n.key, sep)
		rec, _, err := load[snapshotRecord](t, bktSnapshots, join(n.ns, n.key))
		if err != nil {
			return err
		}
		r.snapshots = append(r.snapshots, removedSnapshot{n.ns, snapshotter, key, rec})
		return t.dropSnapshot(n.ns, snapshotter, key, rec)
	}
	return nil
}
