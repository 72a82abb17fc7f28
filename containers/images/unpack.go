package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound what a layer may unpack to.
type Limits struct {
	// Bytes of all files, and of the tar.
	Bytes int64
	// Entries of the tar.
	Entries int64
	// Path is the longest name of an entry, at most PATH_MAX.
	Path int
}

var defaultLimits = Limits{Bytes: 64 << 30, Entries: 4_000_000, Path: maxPath}

// Names of the OCI image specification, layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // of aufs, of no meaning elsewhere
)

// An unpacker lays a layer's tar into the top folder of a stack, which it alone
// writes to. Those below are the layer's parents: an entry may be below a link of
// theirs, and a folder that an entry only implies is to look like theirs.
type unpacker struct {
	*stack
	limits  Limits
	mine    bool // all belongs to the caller: it may neither chown nor mknod
	dirs    map[string]*tar.Header
	bytes   int64
	entries int64

	// The folder last used, by the name that led to it.
	cached string
	cache  *merged
	buf    []byte
}

// stale is no folder's name: the next entry is to look its folder up again. The
// descriptors of the folder in use stay until then.
const stale = "\x00"

func (u *unpacker) forget() {
	u.cache.close()
	u.cache = nil
}

// unpack lays a tar, uncompressed, into the top of the stack.
func (u *unpacker) unpack(ctx context.Context, r io.Reader) error {
	root, err := u.root()
	if err != nil {
		return err
	}
	u.dirs = map[string]*tar.Header{"": {Typeflag: tar.TypeDir, Mode: 0o755}}
	if len(root.fds) > 1 { // it looks like that of the layers below
		var st unix.Stat_t
		if err = unix.Fstat(root.fds[1], &st); err == nil {
			u.dirs[""], err = headerOf(root.fds[1], &st)
		}
	}
	root.close()
	if err != nil {
		return fmt.Errorf("cannot read the layer below: %w", err)
	}
	u.buf = make([]byte, 1<<20)
	defer u.forget()
	t := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read the tar after %d entries: %w", u.entries, err)
		}
		if u.entries++; u.entries > u.limits.Entries {
			return fmt.Errorf("entry %q: there are more than %d entries", short(h.Name), u.limits.Entries)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.entry(h, t); err != nil {
			if pe := new(os.PathError); errors.As(err, &pe) {
				err = pe.Err // its path is a descriptor's number
			}
			return fmt.Errorf("entry %q: %w", short(h.Name), err)
		}
	}
	// Last, for what is made in a folder changes its time, and may need its mode.
	// Those deepest in come first: a folder's mode may close it to its owner.
	for _, p := range slices.Backward(slices.Sorted(maps.Keys(u.dirs))) {
		m, err := u.walk(p, nil)
		if err == unix.ENOENT || err == unix.ENOTDIR {
			continue // it was replaced since
		}
		if err == nil && m.path == p && m.layers[0] == 0 {
			err = u.finish(m.fds[0], "", u.dirs[p])
		}
		m.close()
		if err != nil {
			return fmt.Errorf("entry %q: %w", short(p), err)
		}
	}
	return nil
}

// short keeps an error on one line.
func short(name string) string {
	if len(name) > 200 {
		return name[:200] + "..."
	}
	return name
}

// clean gives the name of an entry or of a hardlink's target relative to the root,
// "" for the root itself.
func (u *unpacker) clean(name string) (string, error) {
	if len(name) > u.limits.Path {
		return "", fmt.Errorf("its name has %d bytes, more than %d", len(name), u.limits.Path)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errors.New("its name has a zero byte")
	}
	for c := range strings.SplitSeq(name, "/") {
		if c == ".." {
			return "", errors.New(`its name has ".."`)
		}
		if len(c) > unix.NAME_MAX {
			return "", fmt.Errorf("its name has a part of %d bytes, more than %d", len(c), unix.NAME_MAX)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// parent gives the folder that an entry is in, in the top layer.
func (u *unpacker) parent(dir string) (*merged, error) {
	if u.cache != nil && u.cached == dir {
		return u.cache, nil
	}
	m, err := u.walk(dir, u.imply)
	if err != nil {
		return nil, fmt.Errorf("cannot make its folder: %w", err)
	}
	u.forget()
	u.cache, u.cached = m, dir
	return m, nil
}

// imply makes a folder that has no entry, or not yet.
func (u *unpacker) imply(at *merged, name string, n *node) (*merged, error) {
	if strings.HasPrefix(name, whiteoutPrefix) {
		return nil, fmt.Errorf("%q is the name of a whiteout, not of a folder", name)
	}
	if n != nil && n.dir == nil && n.layer == 0 {
		return nil, fmt.Errorf("%s is no folder", path.Join(at.path, name))
	}
	h := &tar.Header{Mode: 0o755, Typeflag: tar.TypeDir, ModTime: time.Unix(0, 0)}
	if n != nil && n.dir != nil { // it looks like that of the layers below
		var err error
		if h, err = headerOf(n.dir.fds[0], &n.Stat_t); err != nil {
			return nil, err
		}
	}
	return u.mkdir(at, name, h)
}

// mkdir makes a folder in the top layer where none is, and merges it with those below.
func (u *unpacker) mkdir(at *merged, name string, h *tar.Header) (*merged, error) {
	top := at.fds[0]
	hides := false
	var st unix.Stat_t
	if err := unix.Fstatat(top, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		// What is there hid the layers below, and so does what comes after it.
		if hides = true; st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil, errors.New("there is a folder already")
		}
		if err := unix.Unlinkat(top, name, 0); err != nil {
			return nil, err
		}
	}
	if err := unix.Mkdirat(top, name, 0o700); err != nil {
		return nil, err
	}
	n, err := at.child(name)
	if err != nil {
		return nil, err
	}
	m := n.dir
	if hides && len(m.fds) > 1 {
		if err := u.opaque(m); err != nil {
			m.close()
			return nil, err
		}
	}
	u.dirs[m.path] = h
	return m, nil
}

// opaque hides what is below a folder.
func (u *unpacker) opaque(m *merged) error {
	if len(m.fds) == 1 {
		return nil
	}
	if m.path == "" { // overlayfs does not look for the attribute on a layer's root
		return u.whiteAll(m)
	}
	if err := unix.Fsetxattr(m.fds[0], u.xattr+"opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("cannot make the folder opaque: %w", err)
	}
	closeAll(m.fds[1:])
	m.fds, m.layers = m.fds[:1], m.layers[:1]
	if err := dropWhiteouts(m); err != nil {
		return fmt.Errorf("cannot make the folder opaque: %w", err)
	}
	return nil
}

// dropWhiteouts removes them where there is nothing left to hide: in a folder that it
// does not merge, overlayfs lists them as names that cannot be looked up.
func dropWhiteouts(m *merged) error {
	entries, err := readDir(m.fds[0], m.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var st unix.Stat_t
		switch {
		case e.Type()&fs.ModeCharDevice != 0:
			if err = unix.Fstatat(m.fds[0], e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && isWhiteout(&st) {
				err = unix.Unlinkat(m.fds[0], e.Name(), 0)
			}
		case e.IsDir():
			var n *node
			if n, err = m.child(e.Name()); err == nil {
				err = dropWhiteouts(n.dir)
				n.close()
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whiteAll hides what is below the root, name by name.
func (u *unpacker) whiteAll(root *merged) error {
	names, err := root.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		n, err := root.child(name)
		if err != nil {
			return err
		}
		switch {
		case n.layer != 0:
			err = unix.Mknodat(root.fds[0], name, unix.S_IFCHR, 0)
		case n.dir != nil:
			err = u.opaque(n.dir)
		}
		n.close()
		if err != nil {
			return fmt.Errorf("cannot hide %s: %w", name, err)
		}
	}
	return nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := u.clean(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Gid < 0 || h.Uid >= math.MaxUint32 || h.Gid >= math.MaxUint32 {
		return fmt.Errorf("its owner %d:%d is out of range", h.Uid, h.Gid)
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("it would replace the root")
		}
		u.dirs[""] = h
		return nil
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	m, err := u.parent(dir)
	if err != nil {
		return err
	}
	if len(m.path)+len(base) >= maxPath {
		return unix.ENAMETOOLONG
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(m, base)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeGNUSparse, tar.TypeCont, tar.TypeFifo:
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
			return fmt.Errorf("its link's target has %d bytes, or a zero byte", len(h.Linkname))
		}
	case tar.TypeLink:
		return u.hardlink(m, base, h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		wanted, err := u.device(h, name)
		if err != nil || !wanted {
			return err
		}
	default:
		return fmt.Errorf("type %q is unknown", h.Typeflag)
	}
	if err := checkXattrs(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return u.folder(m, base, h)
	}
	if err := u.clear(m, base); err != nil {
		return err
	}
	top := m.fds[0]
	switch h.Typeflag {
	case tar.TypeSymlink:
		u.cached = stale // it may be part of the name that led here
		err = unix.Symlinkat(h.Linkname, top, base)
	case tar.TypeFifo:
		err = unix.Mknodat(top, base, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar:
		err = unix.Mknodat(top, base, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknodat(top, base, unix.S_IFBLK|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	default:
		return u.file(top, base, h, content)
	}
	if err != nil {
		return err
	}
	return u.finish(top, base, h)
}

// clear removes what this layer has of a name.
func (u *unpacker) clear(m *merged, base string) error {
	err := unix.Unlinkat(m.fds[0], base, 0)
	switch err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM:
		err = removeTree(fmt.Sprintf("/proc/self/fd/%d/%s", m.fds[0], base))
		gone := path.Join(m.path, base)
		for p := range u.dirs {
			if p == gone || strings.HasPrefix(p, gone+"/") {
				delete(u.dirs, p)
			}
		}
		u.cached = stale
	}
	return err
}

func (u *unpacker) folder(m *merged, base string, h *tar.Header) error {
	n, err := m.child(base)
	if err != nil {
		return err
	}
	defer n.close()
	if n != nil && n.dir != nil && n.layer == 0 {
		u.dirs[n.dir.path] = h
		return nil
	}
	if n != nil && n.layer == 0 {
		u.cached = stale // a link's place
	}
	d, err := u.mkdir(m, base, h)
	d.close()
	return err
}

func (u *unpacker) file(top int, base string, h *tar.Header, content io.Reader) error {
	if h.Size < 0 || h.Size > u.limits.Bytes-u.bytes {
		return fmt.Errorf("with its %d bytes the layer has more than %d", h.Size, u.limits.Bytes)
	}
	u.bytes += h.Size
	fd, err := unix.Openat(top, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if err := u.write(f, content, h.Size); err != nil {
		return err
	}
	return u.finish(fd, "", h)
}

var zeros [4096]byte

// write copies a file and leaves holes where it is zero, as sparse files have them.
func (u *unpacker) write(f *os.File, r io.Reader, size int64) error {
	hole := false
	for left := size; left > 0; {
		b := u.buf[:min(left, int64(len(u.buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("cannot read its content: %w", err)
		}
		left -= int64(len(b))
		for len(b) > 0 {
			n, zero := run(b)
			if hole = zero; zero {
				if _, err := f.Seek(int64(n), io.SeekCurrent); err != nil {
					return err
				}
			} else if _, err := f.Write(b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
	}
	if hole {
		return f.Truncate(size)
	}
	return nil
}

// run tells how many bytes of b are to be written, or to be a hole.
func run(b []byte) (n int, zero bool) {
	block := func() []byte { return b[n:min(n+len(zeros), len(b))] }
	isZero := func(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }
	zero = isZero(block())
	for n < len(b) && isZero(block()) == zero {
		n += len(block())
	}
	return n, zero
}

// hardlink links to an entry before it, or to a file of the layers below, which is
// copied up first, as overlayfs would.
func (u *unpacker) hardlink(m *merged, base, target string) error {
	name, err := u.clean(target)
	if err != nil || name == "" {
		return fmt.Errorf("its hardlink's target %q is no file's name", short(target))
	}
	dir, tbase := path.Split(name)
	from, err := u.walk(dir, nil)
	if err != nil {
		return fmt.Errorf("its hardlink's target %q: %w", short(target), err)
	}
	defer from.close()
	if from.path == m.path && tbase == base {
		return nil // to itself
	}
	n, err := from.child(tbase)
	switch {
	case err != nil:
	case n == nil:
		err = unix.ENOENT
	case n.dir != nil:
		err = unix.EISDIR
	}
	n.close()
	if err != nil {
		return fmt.Errorf("its hardlink's target %q: %w", short(target), err)
	}
	at := n.at
	if n.layer != 0 {
		up, err := u.walk(from.path, u.imply)
		if err != nil {
			return err
		}
		defer up.close()
		if n.kind() == unix.S_IFREG {
			if u.bytes += n.Size; u.bytes > u.limits.Bytes {
				return fmt.Errorf("with the %d bytes of %q the layer has more than %d", n.Size, short(target), u.limits.Bytes)
			}
		}
		c := &copier{mine: u.mine}
		if err := c.node(n, tbase, up.fds[0], tbase); err != nil {
			return fmt.Errorf("cannot copy %q up: %w", short(target), err)
		}
		at = up.fds[0]
	}
	if err := u.clear(m, base); err != nil {
		return err
	}
	if err := unix.Linkat(at, tbase, m.fds[0], base, 0); err != nil {
		return fmt.Errorf("cannot link to %q: %w", short(target), err)
	}
	if n.kind() == unix.S_IFLNK {
		u.cached = stale
	}
	return nil
}

// harmless are the character devices that root file systems have, and that
// containers are given anyway.
//
// See Documentation/admin-guide/devices.txt.
var harmless = map[[2]int64]bool{
	{1, 3}: true, {1, 5}: true, {1, 7}: true, {1, 8}: true, {1, 9}: true, // null zero full random urandom
	{5, 0}: true, {5, 1}: true, {5, 2}: true, // tty console ptmx
}

// device tells whether a device node is to be made.
func (u *unpacker) device(h *tar.Header, name string) (bool, error) {
	id := [2]int64{h.Devmajor, h.Devminor}
	switch {
	case h.Typeflag == tar.TypeChar && id == [2]int64{}:
		return false, errors.New("character device 0:0 is a whiteout of overlayfs, which layers may not have")
	case h.Typeflag == tar.TypeChar && harmless[id]:
		return !u.mine, nil
	case strings.HasPrefix(name, "dev/"):
		return false, nil // the container's /dev is mounted over it
	}
	return false, fmt.Errorf("device %d:%d outside /dev is refused", h.Devmajor, h.Devminor)
}

// whiteout hides what the layers below have, never what this one has.
func (u *unpacker) whiteout(m *merged, base string) error {
	if base == whiteoutOpaque {
		u.cached = stale
		return u.opaque(m)
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q", name)
	}
	n, err := m.child(name)
	if err != nil || n == nil {
		return err // there is nothing to hide
	}
	defer n.close()
	switch {
	case n.layer == 0 && n.dir != nil:
		u.cached = stale
		return u.opaque(n.dir)
	case n.layer == 0:
		return nil
	}
	u.cached = stale
	return unix.Mknodat(m.fds[0], name, unix.S_IFCHR, 0)
}

// How PAX headers of tars name extended attributes.
const paxXattr = "SCHILY.xattr."

// checkXattrs refuses those that overlayfs acts on, and leaves the ones that the
// system which made the tar had for its own policy.
func checkXattrs(h *tar.Header) error {
	for k := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if ok && (strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")) {
			return fmt.Errorf("attribute %s is overlayfs's own, which layers may not have", strconv.Quote(short(name)))
		}
	}
	return nil
}

func keepXattr(name string) bool {
	return name == "security.capability" || name == "system.posix_acl_access" || name == "system.posix_acl_default" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// finish gives a file its owner, mode, attributes and time: the one that fd is, or
// a name in it.
func (u *unpacker) finish(fd int, name string, h *tar.Header) error {
	return setAttributes(fd, name, h, u.mine)
}

func setAttributes(fd int, name string, h *tar.Header, mine bool) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	if !mine {
		if err := unix.Fchownat(fd, name, h.Uid, h.Gid, flags); err != nil {
			return fmt.Errorf("cannot give it to %d:%d: %w", h.Uid, h.Gid, err)
		}
	}
	link := h.Typeflag == tar.TypeSymlink
	if !link {
		// After the owner, for that takes setuid bits and capabilities away.
		mode := uint32(h.Mode) & 0o7777
		var err error
		if name == "" {
			err = unix.Fchmod(fd, mode)
		} else {
			err = unix.Fchmodat(fd, name, mode, 0) // it was made just now and is no link
		}
		if err != nil {
			return fmt.Errorf("cannot give it mode %#o: %w", mode, err)
		}
	}
	for k, v := range h.PAXRecords {
		x, ok := strings.CutPrefix(k, paxXattr)
		if !ok || !keepXattr(x) || link || mine && x == "security.capability" {
			continue
		}
		var err error
		if name == "" {
			err = unix.Fsetxattr(fd, x, []byte(v), 0)
		} else {
			err = unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", fd, name), x, []byte(v), 0)
		}
		if err == unix.EPERM && strings.HasPrefix(x, "user.") && h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			continue // xattr(7): only files and folders have these
		}
		if err != nil && !(err == unix.ENOTSUP && x != "security.capability") {
			return fmt.Errorf("cannot set attribute %s: %w", strconv.Quote(x), err)
		}
	}
	t := unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	if h.ModTime.IsZero() {
		t = unix.Timespec{}
	}
	if err := unix.UtimesNanoAt(fd, name, []unix.Timespec{t, t}, flags); err != nil {
		return fmt.Errorf("cannot set its time: %w", err)
	}
	return nil
}

// removeTree removes a folder and all in it, those too that its owner may not write.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	r, rerr := os.OpenRoot(dir)
	if rerr != nil {
		return err
	}
	defer r.Close()
	openUp(r, ".")
	return os.RemoveAll(dir)
}

func openUp(r *os.Root, dir string) {
	r.Chmod(dir, 0o700) //nolint:errcheck // removing tells
	d, err := r.Open(dir)
	if err != nil {
		return
	}
	defer d.Close()
	entries, _ := d.ReadDir(-1)
	for _, e := range entries {
		if e.IsDir() {
			openUp(r, path.Join(dir, e.Name()))
		}
	}
}
