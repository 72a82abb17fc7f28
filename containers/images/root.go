package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An IDMap says which ids of the host a container's are. The zero one leaves them.
type IDMap struct {
	UIDs, GIDs []specs.LinuxIDMapping
}

func (m IDMap) host(uid, gid int) (int, int, error) {
	u, err := toHost(m.UIDs, uid)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot map uid: %w", err)
	}
	g, err := toHost(m.GIDs, gid)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot map gid: %w", err)
	}
	return u, g, nil
}

func toHost(maps []specs.LinuxIDMapping, id int) (int, error) {
	if len(maps) == 0 {
		return id, nil
	}
	for _, m := range maps {
		if d := int64(id) - int64(m.ContainerID); d >= 0 && d < int64(m.Size) {
			return int(int64(m.HostID) + d), nil
		}
	}
	return 0, fmt.Errorf("%d is in none of the ranges", id)
}

// RootOptions say what root a container gets.
type RootOptions struct {
	// Writable gives it a layer of its own.
	Writable bool
	// Copy makes a folder of its own instead of an overlay.
	Copy bool
	// InPlace lets a container write to the folder that is its image.
	InPlace bool
	// IDMap is that of its user namespace.
	IDMap IDMap
}

// A Root is what a container's root is mounted from.
//
// With Path, it is that folder, to be bind-mounted; read-only unless it is Writable.
// Otherwise it is an overlay, to be mounted in the container's mount namespace with
// "lowerdir+" for each of Lower in their order, and upperdir and workdir if there are
// any; "userxattr" if UserXattr, and neither metacopy nor redirect_dir.
//
// With an IDMap, what is the store's own of it (a copy, Upper, volumes) belongs to
// the mapped ids already; Lower, and a Path that is not Own, are to be mounted
// id-mapped first (mount_setattr(2), MOUNT_ATTR_IDMAP; below overlayfs Linux 5.19).
//
// See the kernel's Documentation/filesystems/overlayfs.rst.
type Root struct {
	ID string
	// Image is the digest, or the folder, of what it is made of.
	Image string

	Path      string   `json:",omitempty"`
	Lower     []string `json:",omitempty"` // top first
	Upper     string   `json:",omitempty"`
	Work      string   `json:",omitempty"`
	UserXattr bool     `json:",omitempty"`

	Writable bool `json:",omitempty"`
	// Own tells that Path is a copy, and goes with the root.
	Own     bool     `json:",omitempty"`
	Volumes []Volume `json:",omitempty"`
	IDMap   IDMap
	// Layers are the chain ids of those in use.
	Layers []string `json:",omitempty"`
}

// A Volume is a writable folder that an image wants at a place. It begins as what
// the image has there.
type Volume struct {
	Destination string // in the root
	Source      string // to be bind-mounted
}

// notInID tells what an id, the name of a folder, cannot hold.
func notInID(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+.-", r))
}

func (s *Store) rootDir(id string) (string, error) {
	if id == "" || len(id) > 255 || strings.ContainsFunc(id, notInID) || id == "." || id == ".." {
		return "", fmt.Errorf("cannot use root id %q: want letters, digits and _ + . -", id)
	}
	return s.path("roots", id), nil
}

// Root makes a container's root of an image.
func (s *Store) Root(ctx context.Context, img *Image, id string, o RootOptions) (*Root, error) {
	dir, err := s.rootDir(id)
	if err != nil {
		return nil, err
	}
	l, err := s.lock(ctx, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	r, err := s.makeRoot(img, id, dir, o)
	if err != nil {
		return nil, fmt.Errorf("cannot make root %s of %s: %w", id, img.Ref, err)
	}
	return r, nil
}

func (s *Store) makeRoot(img *Image, id, dir string, o RootOptions) (*Root, error) {
	if _, err := os.Lstat(dir); err == nil {
		return nil, ErrExists
	}
	if o.InPlace && (img.Dir == "" || o.Copy) {
		return nil, errors.New("in place is for a folder as it is, not for copies or layers")
	}
	r := &Root{ID: id, Image: img.Digest, Writable: o.Writable || o.InPlace, IDMap: o.IDMap, Layers: img.Layers}
	var lower []string
	if img.Dir != "" {
		r.Image = img.Dir
		lower = []string{img.Dir}
	}
	for _, c := range slices.Backward(img.Layers) {
		lower = append(lower, s.layer(c))
	}
	st, err := openStack(s.xattr, lower...)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; the image was removed since: get it again", err)
	}
	if err != nil {
		return nil, err
	}
	defer st.close()
	tmp, err := os.MkdirTemp(s.path("tmp"), "root-")
	if err != nil {
		return nil, err
	}
	defer removeTree(tmp) //nolint:errcheck // Prune does
	overlay := !o.Copy && !o.InPlace && (o.Writable || len(lower) > 1)
	if overlay && !s.overlays(lower, tmp) {
		overlay = false
		o.Copy = true
	}
	in := func(name string) (string, int, error) {
		p := filepath.Join(tmp, name)
		if err := os.MkdirAll(p, 0o700); err != nil {
			return "", 0, err
		}
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return filepath.Join(dir, name), fd, err
	}
	top, err := st.root()
	if err != nil {
		return nil, err
	}
	defer top.close()
	c := &copier{mine: s.mine, ids: o.IDMap, links: map[[2]uint64]copied{}}
	defer c.close()
	switch {
	case overlay:
		r.Lower, r.UserXattr = lower, s.mine
		if !o.Writable {
			break
		}
		var fd int
		if r.Upper, fd, err = in("upper"); err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(top.fds[0], &st); err != nil {
			return nil, err
		}
		if err := c.attributes(top.fds[0], &st, fd, ""); err != nil {
			return nil, err
		}
		if r.Work, fd, err = in("work"); err != nil {
			return nil, err
		}
		unix.Close(fd)
	case o.Copy:
		var fd int
		if r.Path, fd, err = in("fs"); err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		if err := c.tree(top, fd); err != nil {
			return nil, err
		}
		r.Own = true
		r.Layers = nil // it needs them no more
	default:
		r.Path = lower[0]
	}
	for i, v := range slices.Sorted(keys(img.Config.Volumes)) {
		dst := path.Clean("/" + v)
		if !path.IsAbs(v) || dst == "/" || len(v) > maxPath {
			return nil, fmt.Errorf("config, Volumes: %q is no folder inside the root", short(v))
		}
		src, fd, err := in(filepath.Join("volumes", strconv.Itoa(i)))
		if err != nil {
			return nil, err
		}
		m, err := st.walk(dst, nil)
		if err == nil {
			vc := &copier{mine: s.mine, ids: o.IDMap, links: map[[2]uint64]copied{}}
			err = vc.tree(m, fd)
			vc.close()
			m.close()
		} else if err == unix.ENOENT || err == unix.ENOTDIR {
			var u, g int
			if u, g, err = o.IDMap.host(0, 0); err == nil && !s.mine {
				err = unix.Fchown(fd, u, g)
			}
			err = errors.Join(err, unix.Fchmod(fd, 0o755))
		}
		unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("config, Volumes: %s: %w", short(v), err)
		}
		r.Volumes = append(r.Volumes, Volume{dst, src})
	}
	if err := s.save(filepath.Join(tmp, "root.json"), r); err != nil {
		return nil, err
	}
	d, err := os.Open(tmp)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return nil, fmt.Errorf("cannot sync: %w", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE); err != nil {
		if err == unix.EEXIST {
			return nil, ErrExists
		}
		return nil, err
	}
	return r, syncDir(s.path("roots"))
}

func keys(m map[string]struct{}) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// overlays tells whether the kernel makes an overlay with its upper folder in dir:
// it makes one, which is mounted nowhere.
func (s *Store) overlays(lower []string, dir string) bool {
	f, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err == unix.EPERM {
		return true // its mounter may, in the container's user namespace
	}
	if err != nil {
		return false
	}
	defer unix.Close(f)
	probe, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return false
	}
	defer removeTree(probe) //nolint:errcheck // it goes with dir
	set := func(k, v string) {
		if err == nil {
			err = unix.FsconfigSetString(f, k, v)
		}
	}
	for _, d := range []string{"upper", "work"} {
		p := filepath.Join(probe, d)
		if err == nil {
			err = os.Mkdir(p, 0o700)
		}
		set(d+"dir", p)
	}
	set("lowerdir", strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(lower[0]))
	return err == nil && unix.FsconfigCreate(f) == nil
}

// Roots gives the roots that there are.
func (s *Store) Roots() ([]*Root, error) {
	entries, err := os.ReadDir(s.path("roots"))
	if err != nil {
		return nil, err
	}
	var out []*Root
	for _, e := range entries {
		r := &Root{}
		err := load(s.path("roots", e.Name(), "root.json"), r)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// RemoveRoot removes a root with what was written to it. It is to be mounted no more.
func (s *Store) RemoveRoot(ctx context.Context, id string) error {
	dir, err := s.rootDir(id)
	if err != nil {
		return err
	}
	l, err := s.lock(ctx, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := s.discard(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrNotFound
		}
		return fmt.Errorf("cannot remove root %s: %w", id, err)
	}
	return nil
}

// User resolves an image's User ("name", "uid", "name:group", "uid:gid") by the
// passwd and group files in the root, as far as it names any. Without a group, the
// additional ones are those that list the user.
//
// See https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md#properties, config.User.
func (s *Store) User(r *Root, spec string) (u specs.User, home string, err error) {
	dirs := r.Lower
	if r.Path != "" {
		dirs = []string{r.Path}
	}
	if r.Upper != "" {
		dirs = append([]string{r.Upper}, dirs...)
	}
	st, err := openStack(s.xattr, dirs...)
	if err != nil {
		return u, "", err
	}
	defer st.close()
	passwd, err := st.lines("etc/passwd")
	if err != nil {
		return u, "", err
	}
	group, err := st.lines("etc/group")
	if err != nil {
		return u, "", err
	}
	x, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return u, "", fmt.Errorf("cannot resolve user %q in the root: %w", spec, err)
	}
	u = specs.User{UID: uint32(x.Uid), GID: uint32(x.Gid)}
	for _, g := range x.Sgids {
		u.AdditionalGids = append(u.AdditionalGids, uint32(g))
	}
	return u, x.Home, nil
}

// lines reads a file of accounts, if there is one.
func (s *stack) lines(name string) (string, error) {
	f, err := s.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read /%s in the root: %w", name, err)
	}
	defer f.Close()
	data, err := readLimited(f, maxJSON)
	if err != nil {
		return "", fmt.Errorf("cannot read /%s in the root: %w", name, err)
	}
	return string(data), nil
}
