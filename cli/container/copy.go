package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"lighter/cli/session"
	"lighter/internal/tarball"
)

// copyOptions are the flags of cp.
type copyOptions struct{ archive, follow, quiet bool }

func newCopyCommand(s *session.Session) *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use: "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n" +
			"\tdocker cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Long: "Copy files/folders between a container and the local filesystem\n\n" +
			"Use '-' as the source to read a tar archive from stdin\n" +
			"and extract it to a directory destination in a container.\n" +
			"Use '-' as the destination to stream a tar archive of a\n" +
			"container source to stdout.",
		Args: session.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := parseLocation(args[0]), parseLocation(args[1])
			switch {
			case args[0] == "" || args[1] == "":
				return errors.New("source and destination cannot be empty")
			case from.container == "" && to.container == "":
				return errors.New("must specify at least one container source")
			case from.container != "" && to.container != "":
				return errors.New("copying between containers is not supported")
			}
			c, err := s.Client()
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("quiet") {
				o.quiet = !errIsTerminal(s)
			}
			if from.container != "" {
				return o.fromContainer(cmd.Context(), s, c, from, to)
			}
			return o.toContainer(cmd.Context(), s, c, from, to)
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&o.archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	fs.BoolVarP(&o.follow, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	return cmd
}

func errIsTerminal(s *session.Session) bool {
	f, ok := s.Err.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// location is an argument of cp.
type location struct{ container, path string }

// parseLocation splits CONTAINER:PATH. What begins with "/" or "." is a local
// path, whatever it contains.
func parseLocation(arg string) location {
	name, rest, ok := strings.Cut(arg, ":")
	if !ok || path.IsAbs(arg) || name == "" || name[0] == '.' {
		return location{path: arg}
	}
	return location{container: name, path: rest}
}

// source is what is copied, as far as it decides where the copy goes.
type source struct {
	name  string // "" for the contents of a directory
	isDir bool
}

// target is where the copy shall go.
type target struct {
	path          string // clean and absolute, links resolved
	exists, isDir bool
	dirWanted     bool // written as the name of a directory
}

// place returns the existing directory to copy into and the name of the copy
// there, "" for the contents alone.
func place(src source, dst target) (dir, name string, err error) {
	parent, base := path.Split(dst.path)
	parent = path.Clean(parent)
	switch {
	case dst.exists && dst.isDir:
		return dst.path, src.name, nil
	case dst.exists && dst.dirWanted:
		return "", "", fmt.Errorf("%s: not a directory", dst.path)
	case dst.exists && src.isDir:
		return "", "", fmt.Errorf("cannot copy directory: %s is a file", dst.path)
	case !dst.exists && dst.dirWanted && !src.isDir:
		return "", "", fmt.Errorf("%s: no such directory", dst.path)
	}
	return parent, base, nil
}

// contentsWanted reports whether p, with "." as its last component, means what is
// in a directory rather than the directory.
func contentsWanted(p string) bool { return path.Base(p) == "." }

// dirWanted reports whether p is written as the name of a directory.
func dirWanted(p string) bool { return strings.HasSuffix(p, "/") || contentsWanted(p) }

// fromContainer copies a container's files to the local file system or, as an
// archive, to standard output.
func (o *copyOptions) fromContainer(ctx context.Context, s *session.Session, c client.APIClient, from, to location) error {
	name, origin := sourceName(from.path), from.path
	if o.follow {
		res, err := c.ContainerStatPath(ctx, from.container, client.ContainerStatPathOptions{Path: origin})
		if err != nil {
			return err
		}
		if link := res.Stat.LinkTarget; link != "" {
			origin = resolveIn(origin, link)
		}
	}
	var dst target
	if to.path != "-" {
		var err error
		if dst, err = localTarget(to.path); err != nil {
			return err
		}
	}
	res, err := c.CopyFromContainer(ctx, from.container, client.CopyFromContainerOptions{SourcePath: origin})
	if err != nil {
		return err
	}
	defer res.Content.Close()
	if to.path == "-" {
		_, err := io.Copy(s.Out, res.Content)
		return err
	}
	src := source{name: name, isDir: res.Stat.Mode.IsDir() || res.Stat.LinkTarget != "" && dirWanted(origin)}
	dir, newName, err := place(src, dst)
	if err != nil {
		return err
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("invalid output path: %w", err)
	}
	defer root.Close()
	opts := tarball.Options{KeepKinds: true, Rename: renamer(sourceName(origin), newName, src.isDir)}
	if !o.archive || os.Geteuid() != 0 {
		opts.Owner = &tarball.Owner{UID: os.Geteuid(), GID: os.Getegid()}
	}
	p := o.progress(s, res.Content, "Copying from container")
	if _, err := tarball.Extract(ctx, root, p, opts); err != nil {
		return err
	}
	p.done("Successfully copied %s to " + strings.ReplaceAll(dst.path, "%", "%%"))
	return nil
}

// sourceName is the name that a copy of p has: "" when p means contents.
func sourceName(p string) string {
	clean := path.Clean("/" + p)
	if contentsWanted(p) || clean == "/" {
		return ""
	}
	return path.Base(clean)
}

// resolveIn returns what the link at p leads to, written as a directory's name
// if p is.
func resolveIn(p, link string) string {
	if !path.IsAbs(link) {
		link = path.Join(path.Dir(path.Clean("/"+p)), link)
	}
	switch {
	case contentsWanted(p):
		return strings.TrimSuffix(link, "/") + "/."
	case dirWanted(p):
		return strings.TrimSuffix(link, "/") + "/"
	}
	return link
}

// renamer maps the entries of an archive of the file or directory "from" to
// names below "to"; either is "" for a directory's contents. Entries that are
// not part of what was asked for are skipped.
func renamer(from, to string, isDir bool) func(string) (string, bool) {
	return func(name string) (string, bool) {
		rest := strings.TrimPrefix(path.Clean("/"+name), "/")
		if from != "" {
			first, below, _ := strings.Cut(rest, "/")
			if first != from {
				return "", false
			}
			rest = below
		}
		if rest != "" && !isDir {
			return "", false
		}
		if out := path.Join(to, rest); out != "" {
			return out, true
		}
		// The directory copied into keeps its own mode and times.
		return "", false
	}
}

// localTarget examines a local destination, of which only the parent directory
// need exist. A link there is followed, also one that leads nowhere yet.
func localTarget(p string) (target, error) {
	abs, err := absoluteLocal(p)
	if err != nil {
		return target{}, err
	}
	t := target{path: abs, dirWanted: dirWanted(p)}
	for range maxLinks {
		info, err := os.Lstat(t.path)
		if errors.Is(err, os.ErrNotExist) {
			if info, err := os.Stat(path.Dir(t.path)); err != nil || !info.IsDir() {
				return t, fmt.Errorf("invalid output path: directory %q does not exist", path.Dir(t.path))
			}
			return t, nil
		}
		if err != nil {
			return t, err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			t.exists, t.isDir = true, info.IsDir()
			return t, nil
		}
		link, err := os.Readlink(t.path)
		if err != nil {
			return t, err
		}
		if !path.IsAbs(link) {
			// Not path.Join: ".." in a link counts from the real directory.
			dir, err := realPath(path.Dir(t.path))
			if err != nil {
				return t, err
			}
			link = path.Join(dir, link)
		}
		t.path = link
	}
	return t, &os.PathError{Op: "open", Path: p, Err: unix.ELOOP}
}

// maxLinks is the kernel's bound on links followed in one path.
const maxLinks = 40

func absoluteLocal(p string) (string, error) {
	if path.IsAbs(p) {
		return path.Clean(p), nil
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return path.Join(wd, p), nil
}

// toContainer copies local files, or an archive on standard input, into a
// container.
func (o *copyOptions) toContainer(ctx context.Context, s *session.Session, c client.APIClient, from, to location) error {
	dst, err := containerTarget(ctx, c, to)
	if err != nil {
		return err
	}
	opts := client.CopyToContainerOptions{CopyUIDGID: o.archive}
	if from.path == "-" {
		if !dst.isDir {
			return fmt.Errorf("destination %q must be a directory", to.container+":"+to.path)
		}
		opts.DestinationPath, opts.Content = dst.path, s.In
		_, err := c.CopyToContainer(ctx, to.container, opts)
		return err
	}
	file, err := openLocal(from.path, o.follow)
	if err != nil {
		return err
	}
	defer file.dir.Close()
	dir, name, err := place(file.source, dst)
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	go func() { // ends with the request: it closes the pipe
		w := tarball.NewWriter(pw, tarball.WriterOptions{})
		err := w.Add(ctx, file.dir, file.base, name)
		if err == nil {
			err = w.Close()
		}
		pw.CloseWithError(err)
	}()
	defer pr.Close()
	p := o.progress(s, pr, "Copying to container")
	opts.DestinationPath, opts.Content = dir, p
	if _, err := c.CopyToContainer(ctx, to.container, opts); err != nil {
		return err
	}
	p.done("Successfully copied %s to " + strings.ReplaceAll(to.container+":"+to.path, "%", "%%"))
	return nil
}

// containerTarget examines a destination in a container. That it does not exist
// is no error.
func containerTarget(ctx context.Context, c client.APIClient, to location) (target, error) {
	t := target{path: path.Clean("/" + to.path), dirWanted: dirWanted(to.path)}
	for range maxLinks {
		res, err := c.ContainerStatPath(ctx, to.container, client.ContainerStatPathOptions{Path: t.path})
		if errdefs.IsNotFound(err) {
			// Of the container or of the file? The copy will say.
			return t, nil
		}
		if err != nil {
			return t, err
		}
		if res.Stat.LinkTarget == "" {
			t.exists, t.isDir = true, res.Stat.Mode.IsDir()
			return t, nil
		}
		t.path = path.Clean(resolveIn(t.path, res.Stat.LinkTarget))
	}
	return t, fmt.Errorf("%s:%s: %w", to.container, to.path, unix.ELOOP)
}

// localFile is a local source: base in the open directory dir.
type localFile struct {
	source
	dir  *os.File
	base string
}

// openLocal finds a local source. A link is followed if the caller says so or
// the path is written as that of a directory; the copy has the link's name.
func openLocal(p string, follow bool) (localFile, error) {
	abs, err := absoluteLocal(p)
	if err != nil {
		return localFile{}, err
	}
	f := localFile{source: source{name: sourceName(abs)}}
	if contentsWanted(p) {
		f.name = ""
	}
	var info os.FileInfo
	if follow || dirWanted(p) {
		if abs, err = realPath(abs); err != nil {
			return f, err
		}
		info, err = os.Stat(abs)
	} else {
		info, err = os.Lstat(abs)
	}
	if err != nil {
		return f, err
	}
	f.isDir = info.IsDir()
	if dirWanted(p) && !f.isDir {
		return f, &os.PathError{Op: "open", Path: p, Err: unix.ENOTDIR}
	}
	f.base = path.Base(abs)
	f.dir, err = os.OpenFile(path.Dir(abs), unix.O_PATH|unix.O_DIRECTORY, 0)
	return f, err
}

// realPath returns p without links, as the kernel resolves it.
func realPath(p string) (string, error) {
	f, err := os.OpenFile(p, unix.O_PATH, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// progress counts what is read through it and shows that on a terminal.
type progress struct {
	io.Reader
	out   io.Writer // nil: quiet
	label string
	n     int64
	next  time.Time
}

func (o *copyOptions) progress(s *session.Session, r io.Reader, label string) *progress {
	p := &progress{Reader: r, label: label}
	if !o.quiet {
		p.out = s.Err
	}
	return p
}

// progressInterval is the time between two updates of the line.
const progressInterval = 100 * time.Millisecond

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.n += int64(n)
	if p.out != nil {
		if now := time.Now(); now.After(p.next) {
			p.next = now.Add(progressInterval)
			fmt.Fprintf(p.out, "\r\x1b[2K%s - %s", p.label, p.size())
		}
	}
	return n, err
}

func (p *progress) size() string { return units.HumanSizeWithPrecision(float64(p.n), 3) }

// done replaces the line by the last word, a format for the size.
func (p *progress) done(format string) {
	if p.out != nil {
		fmt.Fprintf(p.out, "\r\x1b[2K"+format+"\n", p.size())
	}
}
