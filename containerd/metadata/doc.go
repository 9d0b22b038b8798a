// Package metadata is the one database of containerd: namespaces, images,
// containers, leases, and each namespace's view of content and snapshots, with the
// garbage collection that follows their labels.
//
// # Rules
//
//   - One transaction per logical change. Inside it are reads, puts and deletes only;
//     files are made before and removed after, events are published after.
//   - Files that nothing references are garbage and allowed; a reference to
//     files that are not there is not. Start-up removes garbage by set difference.
//   - Reads are bbolt read transactions: they wait for no writer and no sync.
//   - Writers that come while another is being synced share the next sync
//     (committer); one that comes alone waits for nobody.
//
// # Collection
//
// Roots are containers, images, leases and what they hold, ingests until they
// expire or while a writer is open, and content or snapshots labelled gc.root. What
// no root reaches is removed: its record in one transaction, its files later. A
// collection runs shortly after a deletion, when something expires, and at
// once for SynchronousDelete and DB.GC. The labels are those of containerd's docs/garbage-collection.md.
//
// # Compatibility
//
// The interfaces behave as those of containerd's core/metadata do, down to the class of
// errors. The file is another format: see schema.go.
package metadata
