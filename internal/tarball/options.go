package tarball

import "os"

// Whiteouts says what a ".wh." entry means.
type Whiteouts int

// The treatments of whiteouts.
const (
	// Literal makes them ordinary files: an archive that is not a layer.
	Literal Whiteouts = iota
	// Delete removes what they name: a layer put onto a flat copy of the layers
	// below. Entries of the archive itself are never removed by its whiteouts.
	Delete
	// Overlay translates them into overlayfs's own: a layer made into an upper
	// directory.
	Overlay
)

// Owner is a user and group, as numbers.
type Owner struct{ UID, GID int }

// Options qualify Extract. The zero value extracts a plain archive.
type Options struct {
	Whiteouts Whiteouts
	// Lower are the layers below an overlay upper directory, topmost first. A
	// directory that the archive does not describe is made as a copy of the
	// one there, and links there are followed. They stay the caller's.
	Lower []*os.File
	// LowerFunc, when set, gives Lower when it is first needed, which for most
	// layers is never: a layer can be extracted while those below still are, and
	// waits for them in LowerFunc only where it depends on them.
	LowerFunc func() ([]*os.File, error)
	// UserXattr selects the user.overlay namespace instead of trusted.overlay.
	UserXattr bool

	// Dir is where to extract to, resolved inside the root; "" is the root.
	Dir string
	// Owner, when set, owns everything; otherwise MapOwner, when set, is asked.
	Owner    *Owner
	MapOwner func(Owner) (Owner, error)
	// Rename, when set, gives the name to use for an entry or link target, or
	// false to skip it. The result is confined like any other name.
	Rename func(name string) (string, bool)
	// KeepKinds refuses to replace a directory with something else and the
	// other way around (docker cp); otherwise the archive wins.
	KeepKinds bool

	MaxBytes   int64 // 0 means DefaultMaxBytes
	MaxEntries int64 // 0 means DefaultMaxEntries
}

// Stats describe an extraction.
type Stats struct {
	Entries int64
	Bytes   int64 // logical sizes of the files
	// SkippedXattrs counts the attributes that the file system does not support.
	SkippedXattrs int64
}
