// Package plugin finds and runs the programs that add commands to docker:
// docker-NAME in one of the plugin directories, which answers
// docker-cli-plugin-metadata.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli-plugins/metadata"
	"golang.org/x/sync/errgroup"

	"lighter/cli/session"
)

// systemDirs are searched after the user's, in this order.
var systemDirs = []string{
	"/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins",
	"/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins",
}

// metadataTimeout bounds the wait for a plugin to describe itself.
const metadataTimeout = 10 * time.Second

// Plugin is a program found in a plugin directory.
type Plugin struct {
	Name     string
	Path     string
	Shadowed []string // programs of the same name in later directories
	metadata.Metadata
	// Err says why the plugin can't be used; nil when it can.
	Err error
}

// ErrNotFound is the error of Find when no directory has the plugin.
var ErrNotFound = errors.New("no such plugin")

// Dirs are the directories that are searched, the first match wins.
func Dirs(s *session.Session) []string {
	dirs := append([]string{filepath.Join(s.Dir(), "cli-plugins")}, s.Config().CLIPluginsExtraDirs...)
	return append(dirs, systemDirs...)
}

// Find returns the plugin that provides the command name, having asked that
// one program only. The error is ErrNotFound, or why the plugin is not valid.
func Find(ctx context.Context, s *session.Session, name string) (Plugin, error) {
	if !validName(name) {
		return Plugin{}, ErrNotFound
	}
	p := Plugin{Name: name}
	for _, dir := range Dirs(s) {
		path := filepath.Join(dir, metadata.NamePrefix+name)
		switch info, err := os.Stat(path); {
		case err != nil || info.IsDir():
		case p.Path == "":
			p.Path = path
		default:
			p.Shadowed = append(p.Shadowed, path)
		}
	}
	if p.Path == "" {
		return Plugin{}, ErrNotFound
	}
	p.describe(ctx)
	return p, p.Err
}

// All returns every plugin by name, those that are not valid with Err. builtin
// reports whether docker has a command of that name, which a plugin can't be.
func All(ctx context.Context, s *session.Session, builtin func(name string) bool) ([]Plugin, error) {
	byName := map[string]*Plugin{}
	for _, dir := range Dirs(s) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			s.Log().Debug("Plugin directory", "dir", dir, "error", err)
		}
		for _, e := range entries {
			name, ok := strings.CutPrefix(e.Name(), metadata.NamePrefix)
			info, err := os.Stat(filepath.Join(dir, e.Name()))
			if !ok || err != nil || info.IsDir() {
				continue
			}
			path := filepath.Join(dir, e.Name())
			if p := byName[name]; p != nil {
				p.Shadowed = append(p.Shadowed, path)
				continue
			}
			byName[name] = &Plugin{Name: name, Path: path}
		}
	}
	var group errgroup.Group
	for _, p := range byName {
		group.Go(func() error {
			switch {
			case !validName(p.Name):
				p.Err = fmt.Errorf("plugin candidate %q did not match %q", p.Name, namePattern)
			case builtin(p.Name):
				p.Err = fmt.Errorf("plugin %q duplicates builtin command", p.Name)
			default:
				p.describe(ctx)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := make([]Plugin, 0, len(byName))
	for _, p := range byName {
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b Plugin) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// describe asks the program what it is.
func (p *Plugin) describe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, metadata.MetadataSubcommandName)
	cmd.Env = append(os.Environ(), metadata.ReexecEnvvar+"="+os.Args[0])
	cmd.WaitDelay = time.Second // a grandchild may hold the pipe
	out, err := cmd.Output()
	if err != nil {
		p.Err = fmt.Errorf("failed to fetch metadata: %w", err)
		return
	}
	if err := json.Unmarshal(out, &p.Metadata); err != nil {
		p.Err = fmt.Errorf("invalid metadata: %w", err)
		return
	}
	if p.SchemaVersion != "0.1.0" {
		p.Err = fmt.Errorf("plugin SchemaVersion %q is not valid, must be 0.1.0", p.SchemaVersion)
		return
	}
	if p.Vendor == "" {
		p.Err = errors.New("plugin metadata does not define a vendor")
	}
}

const namePattern = "^[a-z][a-z0-9]*$"

func validName(name string) bool {
	ok, err := regexp.MatchString(namePattern, name)
	return ok && err == nil
}
