// Package syscalls knows the numbers of Linux system calls by name, for every
// architecture that the seccomp compiler has.
//
// The table is made from golang.org/x/sys/unix, whose lists are made from the
// kernel's headers; run "go generate" after an update of that module.
package syscalls

//go:generate go run gen.go

import (
	"slices"
	"strings"
)

// None is the number of a call that an architecture does not have.
const None = -1

// Table is an architecture's column in the table.
type Table int

// Entry has the numbers of one system call.
type Entry struct{ row int }

// Lookup finds a system call by its name in the kernel, "openat2".
func Lookup(name string) (Entry, bool) {
	row, ok := slices.BinarySearchFunc(table[:], name, func(r row, name string) int { return strings.Compare(r.name, name) })
	return Entry{row}, ok
}

// Number returns the call's number on an architecture, or None.
func (e Entry) Number(t Table) int { return int(table[e.row].numbers[t]) }

// All calls f with the name and the entry of each system call, in the order of
// the names, until f returns false.
func All(f func(name string, e Entry) bool) {
	for i := range table {
		if !f(table[i].name, Entry{i}) {
			return
		}
	}
}

type row struct {
	name    string
	numbers [tables]int32
}
