// Package user looks up users and groups in /etc/passwd and /etc/group of a
// container's root file system.
//
// Both files belong to whoever made the image, so nothing about them is taken
// on trust. They are found with openat2 inside the root, must be regular files
// (a fifo or a device is never opened: CVE-2024-9676), and are read with bounds
// on the file and on the line (CVE-2026-47262). Lines that are not well-formed,
// or whose numbers are out of range, do not exist. No name service of the host
// or of the image takes part (CVE-2019-14271).
//
// A string of digits is a uid or gid and is never looked up as a name
// (CVE-2016-3697, CVE-2024-40635).
package user

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// MaxID is the largest uid or gid. Docker compatibility: ids are 32 bits wide
// in the kernel, but Docker takes 31 of them.
const MaxID = 1<<31 - 1

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

// User is who a process of the container runs as.
type User struct {
	UID uint32
	GID uint32
	// Groups is the whole list for setgroups(2): GID, then the groups of the
	// group file that list the user, without repetition. Leaving GID out would
	// let a process drop a group that denies it something (CVE-2022-2989).
	Groups []uint32
	// Home is the home directory; "/" if the passwd file has none.
	Home string
}

// Resolve looks up spec, "user[:group]" where each is a name or a number, as in
// "docker run --user". An empty user is uid 0. If a group is given it is the
// only one; else the group is the one of the user's passwd entry (0 if there is
// none) and the group file is searched for more.
//
// Root is the container's root directory; it stays the caller's. Errors:
// NotFound if a name has no entry; InvalidArgument if spec is malformed, an id
// is not in 0..MaxID, or the files are not regular files of acceptable size.
func Resolve(root *os.File, spec string) (User, error) {
	userSpec, groupSpec, _ := strings.Cut(spec, ":")
	want, err := parseSpec(userSpec)
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", spec, err)
	}
	wantGroup, err := parseSpec(groupSpec)
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", spec, err)
	}

	u := User{UID: want.id, Home: "/"}
	name := ""
	err = scan(root, passwdFile, func(line []byte) bool {
		e, ok := parsePasswd(line)
		if !ok || !want.matches(e.name, e.uid) {
			return true
		}
		u.UID, u.GID, u.Home, name = e.uid, e.gid, e.home, e.name
		return false
	})
	if err != nil {
		return User{}, err
	}
	if name == "" && want.kind == byName {
		return User{}, noUserError(want.name)
	}

	switch wantGroup.kind {
	case byNumber:
		u.GID = wantGroup.id
	case byName:
		gids, err := lookupGroups(root, []ref{wantGroup})
		if err != nil {
			return User{}, err
		}
		u.GID = gids[0]
	}
	u.Groups = []uint32{u.GID}
	if wantGroup.kind == unset && name != "" {
		u.Groups, err = addMemberships(root, u.Groups, name)
		if err != nil {
			return User{}, err
		}
	}
	return u, nil
}

// Home returns the home directory of uid, "/" if the passwd file does not have
// one. Errors are those of Resolve.
func Home(root *os.File, uid uint32) (string, error) {
	home := "/"
	err := scan(root, passwdFile, func(line []byte) bool {
		e, ok := parsePasswd(line)
		if ok && e.uid == uid {
			home = e.home
			return false
		}
		return true
	})
	if err != nil {
		return "", err
	}
	return home, nil
}

// Groups returns the gids of groups given by name or number ("docker run
// --group-add"), in the order given and without repetition. Errors are those of
// Resolve.
func Groups(root *os.File, names []string) ([]uint32, error) {
	if len(names) > maxGroups {
		return nil, fmt.Errorf("%d groups: more than %d: %w", len(names), maxGroups, errdefs.ErrInvalidArgument)
	}
	refs := make([]ref, len(names))
	for i, name := range names {
		r, err := parseSpec(name)
		if err == nil && r.kind == unset {
			err = invalid("empty name")
		}
		if err != nil {
			return nil, fmt.Errorf("group %q: %w", name, err)
		}
		refs[i] = r
	}
	gids, err := lookupGroups(root, refs)
	if err != nil {
		return nil, err
	}
	return unique(gids), nil
}

// lookupGroups returns the gid of each ref, reading the group file only if one
// is by name.
func lookupGroups(root *os.File, refs []ref) ([]uint32, error) {
	gids := make([]uint32, len(refs))
	missing := make(map[string][]int) // name -> indices in refs
	for i, r := range refs {
		if r.kind == byName {
			missing[r.name] = append(missing[r.name], i)
		} else {
			gids[i] = r.id
		}
	}
	if len(missing) == 0 {
		return gids, nil
	}
	err := scan(root, groupFile, func(line []byte) bool {
		e, ok := parseGroup(line)
		if !ok {
			return true
		}
		for _, i := range missing[e.name] {
			gids[i] = e.gid
		}
		delete(missing, e.name) // the first entry of a name counts
		return len(missing) > 0
	})
	if err != nil {
		return nil, err
	}
	for _, r := range refs { // in the caller's order, for a stable message
		if _, ok := missing[r.name]; ok && r.kind == byName {
			return nil, noGroupError(r.name)
		}
	}
	return gids, nil
}

// addMemberships appends to gids those of the groups that list name.
func addMemberships(root *os.File, gids []uint32, name string) ([]uint32, error) {
	err := scan(root, groupFile, func(line []byte) bool {
		e, ok := parseGroup(line)
		if ok && e.has(name) {
			gids = append(gids, e.gid)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	gids = unique(gids)
	if len(gids) > maxGroups {
		return nil, invalid(fmt.Sprintf("user %q is in %d groups, more than %d", name, len(gids), maxGroups))
	}
	return gids, nil
}

// unique drops repetitions and keeps the order.
func unique(gids []uint32) []uint32 {
	seen := make(map[uint32]bool, len(gids))
	return slices.DeleteFunc(gids, func(gid uint32) bool {
		if seen[gid] {
			return true
		}
		seen[gid] = true
		return false
	})
}

// A ref is one half of "user:group".
type ref struct {
	kind refKind
	name string // if byName
	id   uint32 // if byNumber; 0 if unset
}

type refKind int

const (
	unset refKind = iota
	byName
	byNumber
)

func (r ref) matches(name string, id uint32) bool {
	if r.kind == byName {
		return name == r.name
	}
	return id == r.id
}

func parseSpec(s string) (ref, error) {
	switch {
	case s == "":
		return ref{}, nil
	case strings.Contains(s, ":"):
		return ref{}, invalid("more than one colon")
	case allDigits(s):
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return ref{}, invalid("uids and gids must be in range 0-2147483647")
		}
		return ref{kind: byNumber, id: uint32(n)}, nil
	case s[0] == '+' || s[0] == '-' || looksNumeric(s):
		// Neither a decimal number nor a name that any tool would create: a
		// passwd file that has it is trying to pass a number for a name.
		return ref{}, invalid("neither a name nor a decimal number")
	}
	return ref{kind: byName, name: s}, nil
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// looksNumeric reports whether s is a number in Go's or C's notation ("0x0").
func looksNumeric(s string) bool {
	_, err := strconv.ParseUint(s, 0, 64)
	return err == nil || errors.Is(err, strconv.ErrRange)
}

// classError has a message that clients match on and a class.
type classError struct {
	msg   string
	class error
}

func (e *classError) Error() string { return e.msg }
func (e *classError) Unwrap() error { return e.class }

func invalid(msg string) error { return &classError{msg, errdefs.ErrInvalidArgument} }

// Docker compatibility: clients match on these texts.

func noUserError(name string) error {
	return &classError{"unable to find user " + name + ": no matching entries in passwd file", errdefs.ErrNotFound}
}

func noGroupError(name string) error {
	return &classError{"unable to find group " + name + ": no matching entries in group file", errdefs.ErrNotFound}
}

// isMissing reports whether err means that there is no such file: then it has
// no entries.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir)
}
