// Package snapshot keeps the files of snapshots: directories, the mounts that
// show them and what they use. Names, parents and labels are records of
// package metadata, which builds a snapshots.Snapshotter from a Driver.
//
// The split is for speed and for crashes. All that a snapshot is, apart from its
// files, changes in one transaction of one database, so a Prepare costs one sync
// and there are no two databases to disagree. The files follow one rule: made
// before they are referenced, removed after. Start-up removes what is not referenced
// (metadata compares Driver.IDs with its records).
//
// # Data before metadata
//
// A committed snapshot is trusted for ever: nobody verifies its files again. So its
// files must be on disk before its record says "committed", or a power cut leaves
// an image of empty files that pulling again does not repair. Syncing every
// file is slow; a Driver offers Sync, one syncfs(2) for the file system, shared by
// all who ask at the same time. Two ways to use it:
//
//   - By default a Commit calls it before its transaction.
//   - A pull of many layers opts in to one sync for all: it passes LabelDeferSync to
//     Prepare and Commit, and calls Sync once before it tells anybody that the image is there.
//     Until then the records are marked. A process that was killed in
//     between loses nothing, since the page cache lives on, and start-up syncs; after a
//     power cut start-up drops the marked records instead of trusting their files. What is not
//     marked never stands on what is: a Prepare without the label syncs first.
//
// A syncfs also waits for what others write to the file system. That is the price of
// not knowing the thousands of files of a layer by name; with the data of a pull
// in flight anyway it was the cheapest of the ways that are right.
package snapshot

import (
	"context"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// LabelDeferSync given to Prepare or Commit, with any value, leaves the sync to a
// later Sync; see the package comment. It is not stored.
const LabelDeferSync = "containerd.io/snapshot/lighter.defer-sync"

// Syncer is a snapshots.Snapshotter that understands LabelDeferSync.
type Syncer interface {
	// Sync brings the files of all snapshots committed so far to the disk and
	// clears the marks of LabelDeferSync.
	Sync(ctx context.Context) error
}

// Deferred returns options for Prepare and Commit that leave the sync to Sync,
// or none if sn cannot do that and each Commit keeps its own promise.
func Deferred(sn snapshots.Snapshotter) []snapshots.Opt {
	if _, ok := sn.(Syncer); !ok {
		return nil
	}
	return []snapshots.Opt{snapshots.WithLabels(map[string]string{LabelDeferSync: "1"})}
}

// LabelStack given to Prepare, with any value and no parent, announces that the
// snapshot's parent will be named at Commit (snapshots.WithParent) and that its
// files are only the changes to that parent. See Stacked.
const LabelStack = "containerd.io/snapshot/lighter.stack"

// Stacker is a snapshots.Snapshotter or Driver whose snapshots hold nothing but
// their changes, so that it may understand LabelStack.
type Stacker interface {
	// Stacks reports whether it does. The mounts of a Prepare with LabelStack are
	// then one overlay with an upper directory only, to be filled, not mounted.
	Stacks() bool
}

// Stacked returns options for Prepare by which the layers of an image can be
// filled at the same time, or none if sn needs the parent first. Commit must
// name the parent then.
func Stacked(sn snapshots.Snapshotter) []snapshots.Opt {
	if s, ok := sn.(Stacker); !ok || !s.Stacks() {
		return nil
	}
	return []snapshots.Opt{snapshots.WithLabels(map[string]string{LabelStack: "1"})}
}

// Sync makes durable what was committed with the options of Deferred.
func Sync(ctx context.Context, sn snapshots.Snapshotter) error {
	if s, ok := sn.(Syncer); ok {
		return s.Sync(ctx)
	}
	return nil
}

// Snapshot is what a Driver knows of a snapshot.
type Snapshot struct {
	ID      ID
	Kind    snapshots.Kind
	Parents []ID              // nearest first; all committed
	Labels  map[string]string // those of the record
}

// Driver keeps the files of the snapshots of one snapshotter. It is safe for
// concurrent use; its callers see to it that one ID is not used by two calls at
// a time, apart from Mounts and Usage.
type Driver interface {
	// Create makes the files of the active or view snapshot s, empty or with the
	// content of s.Parents. If it fails nothing is left. It does not sync: a record
	// without files after a power cut is repaired with Create.
	//
	// Errors: AlreadyExists if the ID has files.
	Create(ctx context.Context, s Snapshot) error
	// Mounts returns the mounts that show s. It makes no system calls.
	Mounts(s Snapshot) []mount.Mount
	// Usage returns what the files of the snapshot use without those of its
	// parents.
	Usage(ctx context.Context, id ID) (snapshots.Usage, error)
	// Remove removes the files; none there is success. A removal that a crash cuts
	// short leaves files that IDs still lists.
	Remove(ctx context.Context, id ID) error
	// IDs lists the snapshots that have files.
	IDs() ([]ID, error)
	// Sync returns after everything written before the call is on disk.
	Sync(ctx context.Context) error
	// Close frees what the driver holds open. Sync fails afterwards.
	Close() error
}
