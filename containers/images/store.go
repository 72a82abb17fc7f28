package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Errors that callers tell apart.
var (
	// ErrNotFound is of a reference, digest or root that is not there.
	ErrNotFound = errors.New("there is none")
	// ErrExists is of a root that is there already.
	ErrExists = errors.New("there is one already")
)

// A Store keeps images and the roots made of them. Several processes may use one.
type Store struct {
	// Limits of a layer; Open sets them.
	Limits Limits

	dir   string
	mine  bool   // without root's rights: all files belong to the user
	xattr string // the namespace of overlayfs's attributes
}

// Open opens the store in a folder, which it makes, and removes what processes that
// were killed left half made.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{Limits: defaultLimits, dir: dir, xattr: "trusted.overlay."}
	// 0700: layers have setuid programs, which are no other user's to run.
	for _, d := range []string{"", "layers", "images", "refs", "roots", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the image store: %w", err)
		}
	}
	// Who may set this may also chown and mknod; root in a user namespace may not.
	if err := unix.Setxattr(s.path("tmp"), "trusted.overlay.powerd", nil, 0); err == unix.EPERM {
		s.mine, s.xattr = true, "user.overlay."
	}
	if l, err := s.tryLock(unix.LOCK_EX); err == nil {
		err = s.clean()
		l.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot clean the image store: %w", err)
		}
	} else if err != unix.EWOULDBLOCK {
		return nil, fmt.Errorf("cannot lock the image store: %w", err)
	}
	return s, nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// clean removes what is half made. It wants the exclusive lock: with it, nobody is
// making anything.
func (s *Store) clean() error {
	entries, err := os.ReadDir(s.path("tmp"))
	for _, e := range entries {
		err = errors.Join(err, removeTree(s.path("tmp", e.Name())))
	}
	return err
}

func (s *Store) tryLock(how int) (*os.File, error) {
	f, err := os.OpenFile(s.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock waits for the lock; closing the file gives it back, as the process' end does.
func (s *Store) lock(ctx context.Context, how int) (*os.File, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		f, err := s.tryLock(how)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return nil, fmt.Errorf("cannot lock the image store: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot lock the image store, which others use: %w", ctx.Err())
		case <-time.After(wait):
		}
	}
}

// A Policy says when a registry is asked.
type Policy string

// Policies of pulling.
const (
	PullMissing Policy = "missing" // when the store does not have the image
	PullAlways  Policy = "always"
	PullNever   Policy = "never"
)

// Options of Get.
type Options struct {
	// Platform is of the image wanted, e.g. "linux/arm64"; "" is this node's.
	Platform string
	// Pull is when to look again at what a reference is; "" is PullMissing.
	Pull Policy
}

// An Image is what a reference was found to be.
type Image struct {
	// Ref is the reference in full, e.g. "index.docker.io/library/debian:12".
	Ref string
	// Digest is the manifest's; of an archive of docker save, which has none, the
	// config's; of a root file system's tar, the tar's own, uncompressed. A folder
	// used in place has none.
	Digest string `json:",omitempty"`
	// Platform it is for, as its config says.
	Platform string `json:",omitempty"`
	// Config says what to run, and how.
	Config v1.Config
	// Layers are their chain ids, the base first.
	//
	// See https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md#layer-chainid.
	Layers []string `json:",omitempty"`
	// Dir is a root file system used in place.
	Dir string `json:",omitempty"`
	// Size of the layers' files in bytes.
	Size int64
}

// layerInfo is layer.json.
type layerInfo struct {
	DiffID, Parent string
	Size           int64
}

// refInfo is a file in refs.
type refInfo struct {
	Ref, Platform, Digest string
	// Stamp tells whether a file is the one that was looked at.
	Stamp string `json:",omitempty"`
}

var digestPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^sha256:[0-9a-f]{64}$`) })

// bare gives a digest's name as a file; digests in records are the store's own.
func bare(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

func (s *Store) refFile(ref, platform string) string {
	h := sha256.Sum256([]byte(ref + "\n" + platform))
	return s.path("refs", hex.EncodeToString(h[:])+".json")
}

// save writes a record: whole and on disk, or not at all.
func (s *Store) save(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.path("tmp"), "record-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is gone when all went well
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func load(name string, v any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot read %s: %v; removing the file makes the image be got again", name, err)
	}
	return nil
}

// known gives the image that a reference was last found to be, nil if none.
func (s *Store) known(ref, platform string) (*Image, *refInfo, error) {
	r := &refInfo{}
	if err := load(s.refFile(ref, platform), r); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, nil, err
	}
	img, err := s.image(r.Digest)
	if img == nil {
		return nil, nil, err
	}
	img.Ref = ref
	return img, r, nil
}

// image gives an image whose layers are all there, nil if it is not so.
func (s *Store) image(digest string) (*Image, error) {
	if !digestPattern().MatchString(digest) {
		return nil, fmt.Errorf("%q is no digest", digest)
	}
	img := &Image{}
	if err := load(s.path("images", bare(digest)+".json"), img); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	for _, l := range img.Layers {
		if _, err := os.Stat(s.layer(l)); err != nil {
			return nil, nil //nolint:nilerr // it is got again
		}
	}
	return img, nil
}

func (s *Store) layer(chain string) string { return s.path("layers", bare(chain), "fs") }

// Get finds what a reference is, and unpacks it into the store unless that has it.
func (s *Store) Get(ctx context.Context, ref string, o Options) (*Image, error) {
	l, err := s.lock(ctx, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	img, err := s.get(ctx, ref, o)
	if err != nil {
		return nil, fmt.Errorf("cannot get image %s: %w", ref, err)
	}
	return img, nil
}

// source is an image before it is unpacked.
type source struct {
	ref, platform string
	stamp         string
	digest        string // "" of a root's tar until it was read
	config        *v1.ConfigFile
	blobs         []blob
	remote        bool
}

// blob is a layer as it is kept or sent, mostly compressed.
type blob struct {
	digest v1.Hash // zero if the source has none
	size   int64   // -1 if the source has none
	open   func() (io.ReadCloser, error)
}

// check refuses an image that does not fit together, or is for another platform.
func (src *source) check(want *v1.Platform) error {
	c := src.config
	if n, m := len(c.RootFS.DiffIDs), len(src.blobs); n != m {
		return fmt.Errorf("config, rootfs.diff_ids: %d layers, the manifest has %d", n, m)
	}
	if len(src.blobs) == 0 {
		return errors.New("it has no layers")
	}
	if len(src.blobs) > maxLayers {
		return fmt.Errorf("it has %d layers, overlayfs takes %d", len(src.blobs), maxLayers)
	}
	for i, d := range c.RootFS.DiffIDs {
		if !digestPattern().MatchString(d.String()) {
			return fmt.Errorf("config, rootfs.diff_ids[%d]: %q is no sha256 digest", i, d)
		}
	}
	if c.OS != "" && c.OS != want.OS || c.Architecture != "" && c.Architecture != want.Architecture {
		return fmt.Errorf("it is for platform %s, wanted is %s; --platform names another", c.Platform(), want)
	}
	return nil
}

// maxLayers leaves one of overlayfs's 500 (OVL_MAX_STACK) for the container's own.
const maxLayers = 499

// parallel is how many layers are fetched at a time.
const parallel = 3

// install unpacks the layers that the store does not have, and records the image.
func (s *Store) install(ctx context.Context, src *source) (*Image, error) {
	img := &Image{Ref: src.ref, Digest: src.digest, Config: src.config.Config}
	if p := src.config.Platform(); p != nil {
		img.Platform = p.String()
	}
	if src.remote {
		ctx2, stop := s.fetch(ctx, src)
		defer stop()
		ctx = ctx2
	}
	for i := range src.blobs {
		var diffID v1.Hash
		if src.digest != "" {
			diffID = src.config.RootFS.DiffIDs[i]
		}
		info, chain, err := s.addLayer(ctx, img.Layers, diffID, src.blobs[i])
		if err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(src.blobs), err)
		}
		if src.digest == "" {
			img.Digest = info.DiffID
		}
		img.Layers = append(img.Layers, chain)
		img.Size += info.Size
	}
	if err := s.save(s.path("images", bare(img.Digest)+".json"), img); err != nil {
		return nil, err
	}
	return img, s.save(s.refFile(src.ref, src.platform), &refInfo{src.ref, src.platform, img.Digest, src.stamp})
}

// fetch gets the layers that are not there ahead of their unpacking, until stop.
func (s *Store) fetch(ctx context.Context, src *source) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	type task struct {
		blob
		done chan *os.File
	}
	todo := make(chan task, len(src.blobs))
	var all []task
	chain := ""
	for i, b := range src.blobs {
		chain = chainID(chain, src.config.RootFS.DiffIDs[i].String())
		if _, err := os.Stat(s.layer(chain)); err == nil {
			continue
		}
		t := task{b, make(chan *os.File, 1)}
		all = append(all, t)
		todo <- t
		src.blobs[i].open = func() (io.ReadCloser, error) {
			select {
			case f := <-t.done:
				return f, nil
			case <-ctx.Done():
				return nil, context.Cause(ctx) // the first download that failed, too
			}
		}
	}
	close(todo)
	for range parallel {
		group.Go(func() error {
			for t := range todo {
				f, err := s.download(ctx, t.blob)
				if err != nil {
					return err
				}
				t.done <- f
			}
			return nil
		})
	}
	return ctx, func() {
		cancel()
		group.Wait() //nolint:errcheck // who opened the layer was told
		for _, t := range all {
			select {
			case f := <-t.done:
				f.Close()
			default:
			}
		}
	}
}

// download keeps a blob in a file without a name, which no crash leaves behind.
func (s *Store) download(ctx context.Context, b blob) (*os.File, error) {
	r, err := b.open()
	if err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", b.digest, err)
	}
	defer r.Close()
	fd, err := unix.Open(s.path("tmp"), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in %s: %w", s.path("tmp"), err)
	}
	f := os.NewFile(uintptr(fd), "layer")
	n, err := io.Copy(f, io.LimitReader(&ctxReader{ctx, r}, b.size+1))
	if err == nil && n != b.size {
		err = fmt.Errorf("it has %d bytes or more, the manifest says %d", n, b.size)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot fetch %s: %w", b.digest, err)
	}
	return f, nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func chainID(parent, diffID string) string {
	if parent == "" {
		return diffID
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(parent+" "+diffID)))
}

// addLayer unpacks a layer upon its parents.
func (s *Store) addLayer(ctx context.Context, parents []string, diffID v1.Hash, b blob) (*layerInfo, string, error) {
	parent := ""
	if len(parents) > 0 {
		parent = parents[len(parents)-1]
	}
	info := &layerInfo{Parent: parent}
	if diffID.Hex != "" {
		chain := chainID(parent, diffID.String())
		err := load(s.path("layers", bare(chain), "layer.json"), info)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return info, chain, err
		}
	}
	tmp, err := os.MkdirTemp(s.path("tmp"), "layer-")
	if err != nil {
		return nil, "", err
	}
	defer removeTree(tmp) //nolint:errcheck // Prune does
	top := filepath.Join(tmp, "fs")
	if err := os.Mkdir(top, 0o755); err != nil {
		return nil, "", err
	}
	dirs := []string{top}
	for _, p := range slices.Backward(parents) {
		dirs = append(dirs, s.layer(p))
	}
	st, err := openStack(s.xattr, dirs...)
	if err != nil {
		return nil, "", err
	}
	defer st.close()
	u := &unpacker{stack: st, limits: s.Limits, mine: s.mine}
	r, err := openLayer(ctx, b, s.Limits)
	if err != nil {
		return nil, "", err
	}
	err = u.unpack(ctx, r)
	got, rerr := r.finish(err == nil)
	if err = errors.Join(rerr, err); err != nil {
		if rerr != nil {
			err = rerr // the layer is not what it should be: that explains the rest
		}
		return nil, "", err
	}
	if diffID.Hex != "" && got != diffID.String() {
		return nil, "", fmt.Errorf("its tar has digest %s, the config says %s", got, diffID)
	}
	info.DiffID, info.Size = got, u.bytes
	chain := chainID(parent, got)
	if err := s.save(filepath.Join(tmp, "layer.json"), info); err != nil {
		return nil, "", err
	}
	if err := unix.Syncfs(st.roots[0]); err != nil {
		return nil, "", fmt.Errorf("cannot sync the layer: %w", err)
	}
	err = os.Rename(tmp, s.path("layers", bare(chain)))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return info, chain, nil // somebody was faster
	}
	if err != nil {
		return nil, "", err
	}
	return info, chain, syncDir(s.path("layers"))
}

// List gives the images that references lead to, by reference.
func (s *Store) List(ctx context.Context) ([]*Image, error) {
	l, err := s.lock(ctx, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	var out []*Image
	err = s.refs(func(_ string, r *refInfo) error {
		img, err := s.image(r.Digest)
		if img != nil {
			img.Ref = r.Ref
			out = append(out, img)
		}
		return err
	})
	slices.SortFunc(out, func(a, b *Image) int {
		return strings.Compare(a.Ref+"\n"+a.Platform, b.Ref+"\n"+b.Platform)
	})
	return out, err
}

func (s *Store) refs(each func(file string, r *refInfo) error) error {
	entries, err := os.ReadDir(s.path("refs"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		r := &refInfo{}
		file := s.path("refs", e.Name())
		if err := load(file, r); err != nil {
			return err
		}
		if err := each(file, r); err != nil {
			return err
		}
	}
	return nil
}

// Remove forgets a reference, or all that lead to a digest. Prune then gives the
// space back, once no root uses it.
func (s *Store) Remove(ctx context.Context, refOrDigest string) error {
	l, err := s.lock(ctx, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.Close()
	names := []string{refOrDigest}
	if full, err := fullName(refOrDigest); err == nil {
		names = append(names, full)
	}
	n := 0
	err = s.refs(func(file string, r *refInfo) error {
		if !slices.Contains(names, r.Ref) && r.Digest != refOrDigest {
			return nil
		}
		n++
		return os.Remove(file)
	})
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("cannot remove image %s: %w", refOrDigest, err)
	}
	return syncDir(s.path("refs"))
}

// Pruned is what Prune removed.
type Pruned struct {
	Images, Layers int
	Bytes          int64 // of the layers' files
}

// Prune removes what is half made, images that no reference leads to, and layers that
// no image and no root uses.
func (s *Store) Prune(ctx context.Context) (Pruned, error) {
	var p Pruned
	l, err := s.lock(ctx, unix.LOCK_EX)
	if err != nil {
		return p, err
	}
	defer l.Close()
	if err := s.prune(&p); err != nil {
		return p, fmt.Errorf("cannot prune the image store: %w", err)
	}
	return p, nil
}

func (s *Store) prune(p *Pruned) error {
	images := map[string]bool{}
	if err := s.refs(func(_ string, r *refInfo) error {
		images[bare(r.Digest)+".json"] = true
		return nil
	}); err != nil {
		return err
	}
	layers := map[string]bool{}
	entries, err := os.ReadDir(s.path("images"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		file := s.path("images", e.Name())
		if !images[e.Name()] {
			if err := os.Remove(file); err != nil {
				return err
			}
			p.Images++
			continue
		}
		img := &Image{}
		if err := load(file, img); err != nil {
			return err
		}
		for _, c := range img.Layers {
			layers[bare(c)] = true
		}
	}
	if err := syncDir(s.path("images")); err != nil {
		return err
	}
	roots, err := s.Roots()
	if err != nil {
		return err
	}
	for _, r := range roots {
		for _, c := range r.Layers {
			layers[bare(c)] = true
		}
	}
	if entries, err = os.ReadDir(s.path("layers")); err != nil {
		return err
	}
	for _, e := range entries {
		if layers[e.Name()] {
			continue
		}
		info := &layerInfo{}
		load(s.path("layers", e.Name(), "layer.json"), info) //nolint:errcheck // only for the count
		if err := s.discard(s.path("layers", e.Name())); err != nil {
			return err
		}
		p.Layers++
		p.Bytes += info.Size
	}
	return s.clean()
}

// discard takes a folder out of the store at once, and then removes it.
func (s *Store) discard(dir string) error {
	tmp, err := os.MkdirTemp(s.path("tmp"), "gone-")
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(tmp, "it")); err != nil {
		os.Remove(tmp) //nolint:errcheck // Prune does
		return err
	}
	return errors.Join(syncDir(filepath.Dir(dir)), removeTree(tmp))
}
