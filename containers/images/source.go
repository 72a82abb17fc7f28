package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// maxJSON bounds what is read whole: indexes, manifests, configs, passwd.
const maxJSON = 8 << 20

// lookedFor says what a path may be.
const lookedFor = "looked for index.json (an OCI image layout), manifest.json (of docker save), and the files of a root file system"

func wantedPlatform(s string) (*v1.Platform, error) {
	if s == "" {
		return &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, nil
	}
	p, err := v1.ParsePlatform(s)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return nil, fmt.Errorf("platform %q: want OS/ARCH or OS/ARCH/VARIANT, e.g. linux/arm64", s)
	}
	return p, nil
}

func (s *Store) get(ctx context.Context, ref string, o Options) (*Image, error) {
	want, err := wantedPlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	switch o.Pull {
	case "":
		o.Pull = PullMissing
	case PullMissing, PullAlways, PullNever:
	default:
		return nil, fmt.Errorf("pull policy %q: want missing, always or never", o.Pull)
	}
	file, selector, ok := splitPath(ref)
	if !ok {
		return s.pull(ctx, ref, want, o.Pull)
	}
	if file, err = filepath.Abs(file); err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return s.fromDir(ctx, file, selector, want)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no folder and no regular file", file)
	}
	return s.fromFile(ctx, file, selector, want, o.Pull)
}

// splitPath tells whether a reference is a path: it is written as one, or something
// is there. After it may come ":TAG" or "@DIGEST", of an image among several.
func splitPath(ref string) (file, selector string, ok bool) {
	there := func(p string) bool {
		_, err := os.Stat(p)
		return p != "" && err == nil
	}
	if there(ref) {
		return ref, "", true
	}
	if i := strings.LastIndex(ref, "@sha256:"); i >= 0 && there(ref[:i]) {
		return ref[:i], ref[i+1:], true
	}
	// Both paths and names of docker save may have colons.
	for i := len(ref) - 1; i > 0; i-- {
		if ref[i] == ':' && there(ref[:i]) {
			return ref[:i], ref[i+1:], true
		}
	}
	written := ref == "." || ref == ".." || strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../")
	return ref, "", written
}

func join(file, selector string) string {
	switch {
	case selector == "":
		return file
	case digestPattern().MatchString(selector):
		return file + "@" + selector
	}
	return file + ":" + selector
}

func (s *Store) fromDir(ctx context.Context, dir, selector string, want *v1.Platform) (*Image, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	src, err := fromFiles(r.FS(), selector, want)
	if err != nil {
		return nil, err
	}
	if src != nil {
		src.ref, src.platform = join(dir, selector), want.String()
		return s.unlessThere(ctx, src)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, errors.New("the folder is empty; " + lookedFor)
	}
	if selector != "" {
		return nil, fmt.Errorf("%s is a root file system, which has no image %s", dir, selector)
	}
	return &Image{Ref: dir, Dir: dir}, nil
}

// unlessThere installs an image, or finds that it is.
func (s *Store) unlessThere(ctx context.Context, src *source) (*Image, error) {
	img, err := s.image(src.digest)
	if err != nil {
		return nil, err
	}
	if img == nil {
		return s.install(ctx, src)
	}
	img.Ref = src.ref
	return img, s.save(s.refFile(src.ref, src.platform), &refInfo{src.ref, src.platform, src.digest, src.stamp})
}

func (s *Store) fromFile(ctx context.Context, file, selector string, want *v1.Platform, pull Policy) (*Image, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	// The time of change cannot be set, so a file that changed is seen to have.
	stamp := fmt.Sprintf("%d:%d %d %d.%09d", st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec)
	ref := join(file, selector)
	img, known, err := s.known(ref, want.String())
	if err != nil || img != nil && (pull == PullNever || pull == PullMissing && known.Stamp == stamp) {
		return img, err
	}
	if pull == PullNever {
		return nil, fmt.Errorf("the store does not have it, and the policy is to get nothing: %w", ErrNotFound)
	}
	br := bufio.NewReader(f)
	plain, kind, err := decompress(br)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	tarAt := f
	if kind == "" {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	var files tarFiles
	if kind == "" {
		files, err = indexTar(ctx, f, f)
	} else if files, err = indexTar(ctx, plain, nil); err == nil && files != nil {
		// What is in an archive is read out of order.
		if tarAt, err = s.spool(ctx, f); err == nil {
			defer tarAt.Close()
			files, err = indexTar(ctx, tarAt, tarAt)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s as a tar: %w", file, err)
	}
	if files == nil { // a root
		if selector != "" {
			return nil, fmt.Errorf("%s is the tar of a root file system, which has no image %s", file, selector)
		}
		src := &source{ref: ref, platform: want.String(), stamp: stamp, config: &v1.ConfigFile{}}
		src.blobs = []blob{{size: -1, open: func() (io.ReadCloser, error) { return os.Open(file) }}}
		return s.install(ctx, src)
	}
	src, err := fromFiles(files, selector, want)
	if err != nil {
		return nil, err
	}
	if src == nil {
		return nil, errors.New("the tar has none of what images have; " + lookedFor)
	}
	src.ref, src.platform, src.stamp = ref, want.String(), stamp
	return s.unlessThere(ctx, src)
}

// spool decompresses a file into one without a name.
func (s *Store) spool(ctx context.Context, f *os.File) (*os.File, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	r, _, err := decompress(bufio.NewReader(&ctxReader{ctx, f}))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	fd, err := unix.Open(s.path("tmp"), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	out := os.NewFile(uintptr(fd), f.Name())
	n, err := io.Copy(out, io.LimitReader(r, s.Limits.Bytes+1))
	if err == nil && n > s.Limits.Bytes {
		err = fmt.Errorf("it has more than %d bytes", s.Limits.Bytes)
	}
	if err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// tarFiles are the regular files of an archive, by name.
type tarFiles map[string]*tarEntry

type tarEntry struct {
	name string
	size int64
	data io.ReaderAt
	off  int64
	link string
}

// archiveName is what image archives have at their top: of layouts, and of docker
// save, whose layers and configs are named by digest.
var archiveName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(blobs|oci-layout|index\.json|manifest\.json|repositories|(sha256:)?[0-9a-f]{64}(\.json|\.tar|\.tar\.gz)?)$`)
})

// indexTar finds the files of an image's archive. It returns nil if the tar is none,
// but that of a root file system, as the first entry mostly tells. Without data to
// read them from, it only tells.
func indexTar(ctx context.Context, r io.Reader, data *os.File) (tarFiles, error) {
	files := tarFiles{}
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return files, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if first, _, _ := strings.Cut(name, "/"); !archiveName().MatchString(first) {
			return nil, nil
		}
		if n > 100_000 {
			return nil, fmt.Errorf("entry %q: an image's archive has less than 100000 entries", short(h.Name))
		}
		e := &tarEntry{name: name, size: h.Size, data: data}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeSymlink: // docker save once had layers point to one another
			e.link = path.Join("/", path.Dir(name), h.Linkname)[1:]
		case tar.TypeLink:
			e.link = path.Clean("/" + h.Linkname)[1:]
		default:
			continue
		}
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") {
				return nil, fmt.Errorf("entry %q is sparse", short(h.Name))
			}
		}
		if data != nil {
			if e.off, err = data.Seek(0, io.SeekCurrent); err != nil {
				return nil, err
			}
		}
		files[name] = e
	}
}

// Open implements fs.FS.
func (f tarFiles) Open(name string) (fs.File, error) {
	e, ok := f[name]
	if ok && e.link != "" {
		e, ok = f[e.link]
	}
	if !ok || e.link != "" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &openEntry{io.NewSectionReader(e.data, e.off, e.size), e}, nil
}

type openEntry struct {
	*io.SectionReader
	e *tarEntry
}

func (o *openEntry) Stat() (fs.FileInfo, error) { return o.e, nil }
func (o *openEntry) Close() error               { return nil }

func (e *tarEntry) Name() string       { return path.Base(e.name) }
func (e *tarEntry) Size() int64        { return e.size }
func (e *tarEntry) Mode() fs.FileMode  { return 0o444 }
func (e *tarEntry) ModTime() time.Time { return time.Time{} }
func (e *tarEntry) IsDir() bool        { return false }
func (e *tarEntry) Sys() any           { return nil }

// openFile opens a regular file: what else there may be could make it wait.
func openFile(fsys fs.FS, name string) (fs.File, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	return fsys.Open(name)
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, err
}

func readFile(fsys fs.FS, name string) ([]byte, error) {
	f, err := openFile(fsys, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readLimited(f, maxJSON)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// fromFiles reads what an image layout or an archive of docker save has. It returns
// nil if the files are neither.
func fromFiles(fsys fs.FS, selector string, want *v1.Platform) (*source, error) {
	var src *source
	data, err := readFile(fsys, "index.json")
	if err == nil {
		src, err = fromLayout(fsys, data, selector, want)
	} else if errors.Is(err, fs.ErrNotExist) {
		data, err = readFile(fsys, "manifest.json")
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := fs.Stat(fsys, "oci-layout"); err == nil {
				return nil, errors.New("it has oci-layout, but no index.json")
			}
			return nil, nil
		}
		if err == nil {
			src, err = fromDocker(fsys, data, selector)
		}
	}
	if err != nil {
		return nil, err
	}
	return src, src.check(want)
}

// Annotations by which images in a layout are named.
//
// See https://github.com/opencontainers/image-spec/blob/v1.1.0/annotations.md.
const (
	refNameAnnotation        = "org.opencontainers.image.ref.name"
	containerdNameAnnotation = "io.containerd.image.name"
)

// maxNesting is how deep an index may be within others.
const maxNesting = 4

// fromLayout reads an OCI image layout.
//
// See https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md.
func fromLayout(fsys fs.FS, index []byte, selector string, want *v1.Platform) (*source, error) {
	found, names, err := choose(fsys, "index.json", index, selector, want, 0)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	has := strings.Join(slices.Compact(names), ", ")
	if has == "" {
		has = "images without names"
	}
	switch {
	case len(found) == 0 && selector != "":
		return nil, fmt.Errorf("index.json has no image %s for %s: it has %s", selector, want, has)
	case len(found) == 0:
		return nil, fmt.Errorf("index.json has no image for %s: it has %s", want, has)
	case len(found) > 1:
		return nil, fmt.Errorf("index.json has several images: choose one with :TAG or @DIGEST after the path, of %s", has)
	}
	var d v1.Descriptor
	for _, d = range found {
	}
	raw, err := readBlob(fsys, d)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	src := &source{digest: d.Digest.String()}
	if raw, err = readBlob(fsys, m.Config); err != nil {
		return nil, fmt.Errorf("manifest %s, config: %w", d.Digest, err)
	}
	if src.config, err = v1.ParseConfigFile(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	for i, l := range m.Layers {
		name, err := blobName(l.Digest)
		if err != nil {
			return nil, fmt.Errorf("manifest %s, layers[%d]: %w", d.Digest, i, err)
		}
		src.blobs = append(src.blobs, blob{l.Digest, l.Size, func() (io.ReadCloser, error) { return openFile(fsys, name) }})
	}
	return src, nil
}

// choose finds the manifests that a selector and a platform lead to, by digest, and
// the names that there are.
func choose(fsys fs.FS, what string, raw []byte, selector string, want *v1.Platform, depth int) (found map[string]v1.Descriptor, names []string, err error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	found = map[string]v1.Descriptor{}
	for i, d := range index.Manifests {
		tag, full := d.Annotations[refNameAnnotation], d.Annotations[containerdNameAnnotation]
		for _, n := range []string{tag, full} {
			if n != "" {
				names = append(names, n)
			}
		}
		if selector != "" && selector != tag && selector != full && selector != d.Digest.String() {
			continue
		}
		switch {
		case d.MediaType.IsIndex():
			if depth == maxNesting {
				return nil, nil, fmt.Errorf("%s, manifests[%d]: indexes are nested more than %d deep", what, i, maxNesting)
			}
			raw, err := readBlob(fsys, d)
			if err != nil {
				return nil, nil, fmt.Errorf("%s, manifests[%d]: %w", what, i, err)
			}
			in, _, err := choose(fsys, "index "+d.Digest.String(), raw, "", want, depth+1)
			if err != nil {
				return nil, nil, err
			}
			for k, v := range in {
				found[k] = v
				if depth > 0 {
					break
				}
			}
		case d.Platform != nil && !d.Platform.Satisfies(*want):
		case d.MediaType.IsImage() || d.MediaType == "":
			found[d.Digest.String()] = d
			if depth > 0 {
				return found, names, nil // of several that fit, the first
			}
		}
	}
	return found, names, nil
}

func blobName(h v1.Hash) (string, error) {
	if !digestPattern().MatchString(h.String()) {
		return "", fmt.Errorf("digest %q is no sha256 digest", short(h.String()))
	}
	return "blobs/sha256/" + h.Hex, nil
}

// readBlob reads what a descriptor is of, and holds it against that.
func readBlob(fsys fs.FS, d v1.Descriptor) ([]byte, error) {
	name, err := blobName(d.Digest)
	if err != nil {
		return nil, err
	}
	data, err := readFile(fsys, name)
	if err != nil {
		return nil, err
	}
	if got := digestOf(data); got != d.Digest.String() || int64(len(data)) != d.Size {
		return nil, fmt.Errorf("%s has digest %s and %d bytes, its descriptor says %d bytes", name, got, len(data), d.Size)
	}
	return data, nil
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// fromDocker reads an archive of docker save.
//
// See https://github.com/moby/docker-image-spec/blob/main/spec.md, "Combined Image JSON + Filesystem Changeset Format".
func fromDocker(fsys fs.FS, manifest []byte, selector string) (*source, error) {
	var all []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(manifest, &all); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var tags []string
	at := -1
	for i, m := range all {
		tags = append(tags, m.RepoTags...)
		if selector == "" && len(all) == 1 || slices.ContainsFunc(m.RepoTags, func(t string) bool {
			return t == selector || strings.HasSuffix(t, ":"+selector) && selector != ""
		}) {
			if at >= 0 {
				return nil, fmt.Errorf("manifest.json has several images %s: give the name in full, of %s", selector, strings.Join(tags, ", "))
			}
			at = i
		}
	}
	if at < 0 && selector == "" {
		return nil, fmt.Errorf("manifest.json has %d images: choose one with :NAME after the path, of %s", len(all), strings.Join(tags, ", "))
	} else if at < 0 {
		return nil, fmt.Errorf("manifest.json has no image %s: it has %s", selector, strings.Join(tags, ", "))
	}
	m := all[at]
	open := func(name string) (fs.File, error) {
		if !fs.ValidPath(name) {
			return nil, fmt.Errorf("manifest.json: %q is no name of a file in it", short(name))
		}
		return openFile(fsys, name)
	}
	f, err := open(m.Config)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := readLimited(f, maxJSON)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Config, err)
	}
	src := &source{digest: digestOf(raw)}
	if h := strings.TrimSuffix(path.Base(m.Config), ".json"); digestPattern().MatchString("sha256:"+bare(h)) && "sha256:"+bare(h) != src.digest {
		return nil, fmt.Errorf("%s has digest %s, not that of its name", m.Config, src.digest)
	}
	if src.config, err = v1.ParseConfigFile(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Config, err)
	}
	for _, name := range m.Layers {
		src.blobs = append(src.blobs, blob{size: -1, open: func() (io.ReadCloser, error) { return open(name) }})
	}
	return src, nil
}

// maxWindow bounds the memory that a zstd stream may ask for.
const maxWindow = 128 << 20

// decompress looks at a stream's first bytes; kind is "" if it is not compressed.
func decompress(r *bufio.Reader) (io.ReadCloser, string, error) {
	magic, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch has := func(m string) bool { return bytes.HasPrefix(magic, []byte(m)) }; {
	case has("\x1f\x8b"):
		z, err := gzip.NewReader(r)
		return z, "gzip", err
	case has("\x28\xb5\x2f\xfd"), len(magic) > 3 && magic[0]&0xf0 == 0x50 && has(string(magic[:1])+"\x2a\x4d\x18"):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, "", err
		}
		return z.IOReadCloser(), "zstd", nil
	case has("BZh"), has("\xfd7zXZ\x00"):
		return nil, "", errors.New("it is compressed with bzip2 or xz: gzip, zstd and plain tars are read")
	}
	return io.NopCloser(r), "", nil
}

// maxTrailer bounds what comes after a tar's end, which is padding.
const maxTrailer = 64 << 20

// A layerReader decompresses a layer ahead of who reads its tar, and hashes it both
// as kept and as unpacked.
type layerReader struct {
	b       blob
	raw     io.ReadCloser
	counted *counter
	plain   io.Closer
	sum     interface{ Sum([]byte) []byte }

	chunks, free chan []byte
	quit         chan struct{}
	err          error // once chunks is closed
	chunk, rest  []byte
}

// counter hashes and counts what is read of a blob.
type counter struct {
	r io.Reader
	n int64
	h interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.h != nil {
		c.h.Write(p[:n]) //nolint:errcheck // hashes have no errors
	}
	return n, err
}

func openLayer(ctx context.Context, b blob, limits Limits) (*layerReader, error) {
	raw, err := b.open()
	if err != nil {
		return nil, err
	}
	l := &layerReader{b: b, raw: raw, counted: &counter{r: &ctxReader{ctx, raw}}}
	if b.digest.Hex != "" {
		l.counted.h = sha256.New()
	}
	plain, _, err := decompress(bufio.NewReaderSize(l.counted, 256<<10))
	if err != nil {
		defer raw.Close()
		if cerr := l.check(); cerr != nil {
			err = cerr
		}
		return nil, err
	}
	l.plain = plain
	sum := sha256.New()
	l.sum = sum
	const chunk, ahead = 256 << 10, 8
	l.chunks, l.free, l.quit = make(chan []byte, ahead), make(chan []byte, ahead), make(chan struct{})
	for range ahead {
		l.free <- make([]byte, chunk)
	}
	// Headers count too: an entry's may have a MiB.
	left := limits.Bytes + 4096*limits.Entries
	go func() {
		defer close(l.chunks)
		for {
			var b []byte
			select {
			case b = <-l.free:
			case <-l.quit:
				return
			}
			// Not ReadFull: it calls a stream that breaks off what one that ends is.
			n, err := 0, error(nil)
			for b = b[:chunk]; n < chunk && err == nil; {
				var m int
				m, err = plain.Read(b[n:])
				n += m
			}
			if left -= int64(n); left < 0 {
				l.err = fmt.Errorf("its tar has more than %d bytes", limits.Bytes+4096*limits.Entries)
				return
			}
			sum.Write(b[:n]) //nolint:errcheck // hashes have no errors
			l.chunks <- b[:n]
			if err != nil {
				if err != io.EOF {
					l.err = err
				}
				return
			}
		}
	}()
	return l, nil
}

func (l *layerReader) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		if l.chunk != nil {
			l.free <- l.chunk
		}
		var ok bool
		if l.chunk, ok = <-l.chunks; !ok {
			if l.chunk = nil; l.err != nil {
				return 0, l.err
			}
			return 0, io.EOF
		}
		l.rest = l.chunk
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// finish gives the digest of the tar, of which all is read first if it was unpacked,
// and tells whether the blob is the one that the manifest means.
func (l *layerReader) finish(unpacked bool) (string, error) {
	var err error
	if unpacked {
		var n int64
		if n, err = io.Copy(io.Discard, io.LimitReader(l, maxTrailer+1)); err == nil && n > maxTrailer {
			err = fmt.Errorf("its tar has more than %d bytes after its end", maxTrailer)
		}
	}
	close(l.quit)
	for range l.chunks { //nolint:revive // until it has ended
	}
	l.plain.Close() //nolint:errcheck // it was read
	defer l.raw.Close()
	if cerr := l.check(); cerr != nil {
		err = cerr
	}
	return "sha256:" + hex.EncodeToString(l.sum.Sum(nil)), err
}

// check reads what is left of the blob and holds it against its descriptor.
func (l *layerReader) check() error {
	if l.b.digest.Hex == "" {
		return nil
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(l.counted, max(l.b.size-l.counted.n, 0)+1)); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(l.counted.h.Sum(nil)); got != l.b.digest.String() || l.counted.n != l.b.size {
		return fmt.Errorf("its blob has %d bytes and digest %s, the manifest says %d and %s", l.counted.n, got, l.b.size, l.b.digest)
	}
	return nil
}
