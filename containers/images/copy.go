package images

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// headerOf describes a file by its attributes: what a tar of it would say.
func headerOf(fd int, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix())}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		return h, nil
	default:
		h.Typeflag = tar.TypeFifo
		return h, nil
	}
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(fd, names)
	if err != nil {
		if err == unix.ENOTSUP {
			err = nil
		}
		return h, err
	}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if !keepXattr(name) {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return nil, err
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+name] = string(value[:n])
	}
	return h, nil
}

// A copier copies out of a stack.
type copier struct {
	mine  bool
	ids   IDMap
	links map[[2]uint64]copied // by device and inode, of files with several names
}

type copied struct {
	dir  int // kept open
	name string
}

func (c *copier) close() {
	for _, l := range c.links {
		unix.Close(l.dir)
	}
}

// tree copies a folder's content and attributes into the folder to.
func (c *copier) tree(m *merged, to int) error {
	names, err := m.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.in(m, name, to); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.fds[0], &st); err != nil {
		return err
	}
	return c.attributes(m.fds[0], &st, to, "")
}

func (c *copier) in(m *merged, name string, to int) error {
	n, err := m.child(name)
	if err != nil || n == nil {
		return err
	}
	defer n.close()
	if n.dir == nil {
		if err := c.node(n, name, to, name); err != nil {
			return fmt.Errorf("cannot copy /%s: %w", strings.TrimPrefix(m.path+"/"+name, "/"), err)
		}
		return nil
	}
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return fmt.Errorf("cannot copy /%s: %w", n.dir.path, err)
	}
	fd, err := unix.Openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return c.tree(n.dir, fd)
}

// node copies what is no folder.
func (c *copier) node(n *node, name string, to int, as string) error {
	id := [2]uint64{n.Dev, n.Ino}
	if n.Nlink > 1 {
		if l, ok := c.links[id]; ok {
			return unix.Linkat(l.dir, l.name, to, as, 0)
		}
	}
	switch n.kind() {
	case unix.S_IFREG:
		from, err := unix.Openat(n.at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		src := os.NewFile(uintptr(from), name)
		defer src.Close()
		fd, err := unix.Openat(to, as, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		dst := os.NewFile(uintptr(fd), as)
		defer dst.Close()
		if err := copyData(dst, src, n.Size); err != nil {
			return err
		}
		if err := c.attributes(from, &n.Stat_t, fd, ""); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := readlinkat(n.at, name)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, to, as); err != nil {
			return err
		}
		if err := c.attributes(-1, &n.Stat_t, to, as); err != nil {
			return err
		}
	case unix.S_IFSOCK:
		return nil // its listener is not there
	default:
		if c.mine && n.kind() != unix.S_IFIFO {
			return nil
		}
		if err := unix.Mknodat(to, as, n.kind()|0o600, int(n.Rdev)); err != nil {
			return err
		}
		if err := c.attributes(-1, &n.Stat_t, to, as); err != nil {
			return err
		}
	}
	if n.Nlink > 1 && c.links != nil {
		fd, err := unix.FcntlInt(uintptr(to), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		c.links[id] = copied{fd, as}
	}
	return nil
}

func (c *copier) attributes(from int, st *unix.Stat_t, fd int, name string) error {
	h, err := headerOf(from, st)
	if err != nil {
		return err
	}
	if h.Uid, h.Gid, err = c.ids.host(h.Uid, h.Gid); err != nil {
		return err
	}
	if v, ok := h.PAXRecords[paxXattr+"security.capability"]; ok && len(c.ids.UIDs) > 0 {
		root, _, err := c.ids.host(0, 0)
		if err != nil {
			return err
		}
		h.PAXRecords[paxXattr+"security.capability"] = capabilityFor(v, uint32(root))
	}
	return setAttributes(fd, name, h, c.mine)
}

// capabilityFor makes file capabilities those of a user namespace, by the host's id
// of its root: revision 2 means the initial namespace only.
//
// See capabilities(7), "File capability extended attribute versioning".
func capabilityFor(v string, root uint32) string {
	const revision2, revision3 = 0x02, 0x03 // the top byte of the first word, little endian
	if len(v) != 20 || v[3] != revision2 {
		return v
	}
	b := []byte(v)
	b[3] = revision3
	return string(binary.LittleEndian.AppendUint32(b, root))
}

// copyData shares a file's blocks where the file system can, and keeps its holes.
func copyData(dst, src *os.File, size int64) error {
	if size == 0 || unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	for at := int64(0); at < size; {
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // a hole up to the end
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := src.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, hole-data); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		at = hole
	}
	return dst.Truncate(size)
}
