package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"lighter/engine/container/rootfs"
)

const (
	// maxAccounts bounds /etc/passwd and /etc/group of a container, in bytes.
	maxAccounts = 4 << 20
	// maxID is the highest user or group ID that Docker accepts.
	maxID = 1<<31 - 1
)

// accounts are the users and groups that an image knows.
type accounts struct{ passwd, group []byte }

// readAccounts reads the account files of a container. A missing file is empty.
func readAccounts(root *rootfs.Root) (accounts, error) {
	var a accounts
	var err error
	if a.passwd, err = readAccountFile(root, "/etc/passwd"); err != nil {
		return a, err
	}
	a.group, err = readAccountFile(root, "/etc/group")
	return a, err
}

func readAccountFile(root *rootfs.Root, name string) ([]byte, error) {
	data, err := root.ReadFile(name, maxAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// user resolves "user[:group]" and the additional groups of a container. Digits
// are IDs, never names (CVE-2016-3697). The errors have Docker's texts.
func (a accounts) user(spec string, groupAdd []string) (specs.User, error) {
	userPart, groupPart, _ := strings.Cut(spec, ":")
	if userPart == "" {
		userPart = "0"
	}
	var u specs.User
	login := ""
	uid, numeric, err := parseID(userPart)
	if err != nil {
		return u, err
	}
	found := false
	for fields := range lines(a.passwd) {
		if len(fields) < 4 || numeric && fields[2] != strconv.Itoa(uid) || !numeric && fields[0] != userPart {
			continue
		}
		id, idOK, idErr := parseID(fields[2])
		gid, gidOK, gidErr := parseID(fields[3])
		if !idOK || !gidOK || idErr != nil || gidErr != nil {
			continue
		}
		login, u.UID, u.GID, found = fields[0], uint32(id), uint32(gid), true
		break
	}
	if !found {
		if !numeric {
			return u, fmt.Errorf("unable to find user %s: no matching entries in passwd file", userPart)
		}
		u.UID = uint32(uid)
	}
	if groupPart != "" {
		gid, err := a.groupID(groupPart)
		if err != nil {
			return u, err
		}
		u.GID = gid
	}
	u.AdditionalGids = []uint32{u.GID}
	if groupPart == "" && login != "" {
		for fields := range lines(a.group) {
			if len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), login) {
				continue
			}
			if gid, ok, err := parseID(fields[2]); ok && err == nil {
				u.AdditionalGids = append(u.AdditionalGids, uint32(gid))
			}
		}
	}
	for _, g := range groupAdd {
		gid, err := a.groupID(g)
		if err != nil {
			return u, err
		}
		u.AdditionalGids = append(u.AdditionalGids, gid)
	}
	return u, nil
}

func (a accounts) groupID(s string) (uint32, error) {
	gid, numeric, err := parseID(s)
	if err != nil {
		return 0, err
	}
	if numeric {
		return uint32(gid), nil
	}
	for fields := range lines(a.group) {
		if len(fields) < 3 || fields[0] != s {
			continue
		}
		if gid, ok, err := parseID(fields[2]); ok && err == nil {
			return uint32(gid), nil
		}
	}
	return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", s)
}

// parseID reads an ID. numeric is false when s is a name.
func parseID(s string) (id int, numeric bool, err error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		if n, err := strconv.Atoi(s); err == nil && n < 0 {
			return 0, true, fmt.Errorf("uids and gids must be in range 0-%d", maxID)
		}
		return 0, false, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > maxID {
		return 0, true, fmt.Errorf("uids and gids must be in range 0-%d", maxID)
	}
	return int(n), true, nil
}

// lines yields the fields of each line of a passwd or group file.
func lines(data []byte) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		sc := bufio.NewScanner(bytes.NewReader(data))
		sc.Buffer(nil, 64<<10)
		for sc.Scan() {
			line := strings.TrimSpace(sc.Text())
			if line != "" && line[0] != '#' && !yield(strings.Split(line, ":")) {
				return
			}
		}
	}
}

// userCache remembers what the image of a fresh container answers, so that most
// starts look into no file system. Keys hold the immutable chain ID.
type userCache struct {
	mu sync.Mutex
	m  map[string]specs.User
}

// maxCachedUsers bounds the cache; it is emptied when full.
const maxCachedUsers = 1024

func (c *userCache) get(key string) (specs.User, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u, ok := c.m[key]
	return u, ok
}

func (c *userCache) put(key string, u specs.User) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCachedUsers {
		c.m = make(map[string]specs.User)
	}
	c.m[key] = u
}

// readSmall reads a file of /proc or /sys.
func readSmall(path string) (string, error) {
	data, err := os.ReadFile(path)
	return string(data), err
}
