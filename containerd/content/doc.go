// Package content keeps immutable bytes addressed by digest in a directory.
//
// Layout, that of containerd's local store:
//
//	blobs/<algorithm>/<hex>     one committed blob, mode 0444
//	ingest/<hash of ref>/       one blob being written
//	    ref                     the ref, as text
//	    data                    the bytes so far
//	    total                   the size announced, decimal; absent if unknown
//	    startedat, updatedat    RFC 3339 times
//	    synced                  how many bytes of data a power cut cannot take; absent means 0
//	boot                        the boot in which ingest/ was last written
//
// A blob gets its name only after its bytes were hashed, compared with the digest and
// size expected, and synced; the name is synced before Commit returns. So a file
// under blobs/ is whole, whatever crashed.
//
// An ingest survives the death of the process as it is, since the page cache does.
// After a power cut its tail may be zeros that were never written: the first Open
// in a new boot cuts every ingest back to what is known to be synced, and
// a resumed writer hashes what is left again.
//
// The store knows no namespaces: package metadata gives each its view. One Store
// at a time may use a directory; the owner of the root lock sees to that.
package content
