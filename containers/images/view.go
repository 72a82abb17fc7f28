package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A stack is layers seen as overlayfs shows them, the top one first. Nothing is
// mounted: every name is looked up in the folders that its parent merges, one
// component at a time and without following links, so no path leaves the layers.
type stack struct {
	roots []int  // descriptors of the layers' folders
	xattr string // the namespace of overlayfs's attributes: trusted.overlay. or user.overlay.
}

// Bounds of a path inside a root, as of the kernel: PATH_MAX, MAXSYMLINKS.
const (
	maxPath  = unix.PathMax - 1
	maxLinks = 40
)

func openStack(xattr string, dirs ...string) (*stack, error) {
	s := &stack{xattr: xattr}
	for _, d := range dirs {
		fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			s.close()
			return nil, fmt.Errorf("cannot open layer %s: %w", d, err)
		}
		s.roots = append(s.roots, fd)
	}
	return s, nil
}

func (s *stack) close() { closeAll(s.roots) }

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// merged is a folder of the stack: the folders of that name in its layers, top first.
type merged struct {
	s      *stack
	path   string // without links; "" is the root
	layers []int  // which layer each is of
	fds    []int
}

func (m *merged) close() {
	if m != nil {
		closeAll(m.fds)
	}
}

// add joins a layer's folder, and tells whether those below show through it.
func (m *merged) add(layer, fd int) bool {
	m.layers = append(m.layers, layer)
	m.fds = append(m.fds, fd)
	var b [2]byte
	n, err := unix.Fgetxattr(fd, m.s.xattr+"opaque", b[:])
	return err != nil || n != 1 || b[0] != 'y'
}

func (s *stack) root() (*merged, error) {
	m := &merged{s: s}
	for i, r := range s.roots {
		fd, err := unix.FcntlInt(uintptr(r), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			m.close()
			return nil, err
		}
		m.add(i, fd) // overlayfs does not look whether a root is opaque
	}
	return m, nil
}

// node is a name in a folder.
type node struct {
	unix.Stat_t
	layer int
	at    int     // the folder it was found in
	dir   *merged // if it is one
}

func (n *node) kind() uint32 { return n.Mode & unix.S_IFMT }

func (n *node) close() {
	if n != nil {
		n.dir.close()
	}
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// child looks a name up. It returns nil if there is none.
func (m *merged) child(name string) (*node, error) {
	var n *node
	for i, at := range m.fds {
		var st unix.Stat_t
		if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if err == unix.ENOENT {
				continue
			}
			n.close()
			return nil, err
		}
		if isWhiteout(&st) {
			break
		}
		dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if n == nil {
			n = &node{Stat_t: st, layer: m.layers[i], at: at}
			if !dir {
				break
			}
			n.dir = &merged{s: m.s, path: path.Join(m.path, name)}
		} else if !dir {
			break
		}
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			n.close()
			return nil, err
		}
		if !n.dir.add(m.layers[i], fd) {
			break
		}
	}
	return n, nil
}

// names lists the folder, sorted.
func (m *merged) names() ([]string, error) {
	seen := map[string]bool{} // false: a whiteout
	for _, fd := range m.fds {
		entries, err := readDir(fd, m.path)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if _, ok := seen[e.Name()]; ok {
				continue
			}
			white := false
			if e.Type()&fs.ModeCharDevice != 0 {
				var st unix.Stat_t
				if err := unix.Fstatat(fd, e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
					return nil, err
				}
				white = isWhiteout(&st)
			}
			seen[e.Name()] = !white
		}
	}
	var out []string
	for name, there := range seen {
		if there {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func readDir(fd int, name string) ([]fs.DirEntry, error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // from its beginning
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(again), name)
	defer d.Close()
	return d.ReadDir(-1)
}

// makeDir gives the folder that a walk goes on in where there is none, or where it
// is of another layer than the top: n is what was found, nil if nothing.
type makeDir func(at *merged, name string, n *node) (*merged, error)

func readlinkat(at int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(at, name, b)
	return string(b[:max(n, 0)]), err
}

// maxSteps bounds the components that a path with links comes to: links of many ".."
// would have each of them walked from the root again.
const maxSteps = 1 << 16

// walk follows a path to a folder. Links, "..", and absolute names stay in the root.
func (s *stack) walk(p string, mk makeDir) (*merged, error) {
	steps := maxSteps
	return s.walkIn(p, mk, &steps)
}

func (s *stack) walkIn(p string, mk makeDir, steps *int) (*merged, error) {
	cur, err := s.root()
	if err != nil {
		return nil, err
	}
	links := 0
	todo := strings.Split(p, "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		var next *merged
		switch name {
		case "", ".":
			continue
		case "..":
			up := path.Dir(cur.path) // it has no links
			cur.close()
			if up == "." {
				cur, err = s.root()
			} else {
				cur, err = s.walkIn(up, nil, steps)
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		if *steps--; *steps < 0 || len(cur.path)+len(name) > maxPath {
			cur.close()
			return nil, unix.ENAMETOOLONG
		}
		n, err := cur.child(name)
		switch {
		case err != nil:
		case n != nil && n.kind() == unix.S_IFLNK:
			var target string
			if links++; links > maxLinks {
				err = unix.ELOOP
			} else if target, err = readlinkat(n.at, name); err == nil {
				todo = append(strings.Split(target, "/"), todo...)
				if next = cur; strings.HasPrefix(target, "/") {
					if next, err = s.root(); err == nil {
						cur.close()
					}
				}
				if err == nil {
					cur = next
					continue
				}
			}
		case mk != nil && (n == nil || n.dir == nil || n.layer != 0):
			next, err = mk(cur, name, n)
			n.close()
		case n == nil:
			err = unix.ENOENT
		case n.dir == nil:
			err = unix.ENOTDIR
		default:
			next = n.dir
		}
		cur.close()
		if err != nil {
			return nil, err
		}
		cur = next
	}
	return cur, nil
}

// open opens a regular file for reading, following links inside the root.
func (s *stack) open(p string) (*os.File, error) {
	for range maxLinks {
		dir, base := path.Split(p)
		if base == "" || base == "." || base == ".." {
			return nil, unix.EISDIR
		}
		m, err := s.walk(dir, nil)
		if err != nil {
			return nil, err
		}
		f, target, err := m.open(base)
		at := m.path
		m.close()
		if err != nil || f != nil {
			return f, err
		}
		if p = target; !strings.HasPrefix(target, "/") {
			p = at + "/" + target
		}
	}
	return nil, unix.ELOOP
}

func (m *merged) open(name string) (*os.File, string, error) {
	n, err := m.child(name)
	if err != nil {
		return nil, "", err
	}
	defer n.close()
	switch {
	case n == nil:
		return nil, "", unix.ENOENT
	case n.kind() == unix.S_IFLNK:
		target, err := readlinkat(n.at, name)
		return nil, target, err
	case n.kind() != unix.S_IFREG:
		return nil, "", errors.New("it is no regular file")
	}
	// Not blocking: it may have become a fifo since.
	fd, err := unix.Openat(n.at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), path.Join("/", m.path, name)), "", nil
}
