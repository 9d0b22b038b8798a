package plan

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// words encodes 32-bit words in the machine's byte order.
func words(list ...uint32) []byte {
	d := make([]byte, 0, 4*len(list))
	for _, w := range list {
		d = binary.NativeEndian.AppendUint32(d, w)
	}
	return d
}

// quads encodes 64-bit words in the machine's byte order.
func quads(list ...uint64) []byte {
	d := make([]byte, 0, 8*len(list))
	for _, w := range list {
		d = binary.NativeEndian.AppendUint64(d, w)
	}
	return d
}

// Where fstat and fstatfs put what plans look at.
const (
	statSize   = int(unsafe.Sizeof(unix.Stat_t{}))
	statMode   = int(unsafe.Offsetof(unix.Stat_t{}.Mode))
	statRdev   = int(unsafe.Offsetof(unix.Stat_t{}.Rdev))
	statfsSize = int(unsafe.Sizeof(unix.Statfs_t{}))
	statfsType = int(unsafe.Offsetof(unix.Statfs_t{}.Type))
)
