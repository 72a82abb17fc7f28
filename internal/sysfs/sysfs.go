// Package sysfs is the only door to the kernel's pseudo-files.
//
// Its seam is file-shaped: an FS reads and writes files below a root. A real
// machine (Host), a captured one (Host on a folder), a simulated one
// (internal/sim), a dry run (Overlay) and a journalled machine (Journal) are
// values of it. Names are slash-separated and relative to the root, as in
// io/fs: "sys/devices/system/cpu/online".
package sysfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// An FS is a machine's pseudo-files. Errors are *fs.PathError and match
// fs.ErrNotExist, fs.ErrPermission and the kernel's errnos by errors.Is.
type FS interface {
	// ReadFile returns the whole content of a file.
	ReadFile(name string) ([]byte, error)
	// WriteFile gives data to a file that exists, in one write(2). It never
	// creates one.
	WriteFile(name string, data []byte) error
	// ReadDir returns the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	// Mkdir makes a directory (a cgroup, where that is what the place means).
	Mkdir(name string) error
	// Remove removes an empty directory (a cgroup).
	Remove(name string) error
}

// Attribute returns an extended attribute of a file or directory, nil if it has none or
// m's files have none.
//
// See xattr(7).
func Attribute(m FS, name, attribute string) ([]byte, error) {
	if a, ok := m.(interface {
		Attribute(name, attribute string) ([]byte, error)
	}); ok {
		return a.Attribute(name, attribute)
	}
	return nil, nil
}

// A File is a pseudo-file held open, for files that are read every tick.
type File interface {
	// ReadAt0 reads the content from its beginning into buf and returns the
	// part filled. A file longer than buf is an error.
	ReadAt0(buf []byte) ([]byte, error)
	Close() error
}

// Open holds the named file open if m can, and otherwise returns a File that
// looks the name up at each read.
func Open(m FS, name string) (File, error) {
	if o, ok := m.(interface{ Open(string) (File, error) }); ok {
		return o.Open(name)
	}
	return byName{m, name}, nil
}

type byName struct {
	fs   FS
	name string
}

func (f byName) ReadAt0(buf []byte) ([]byte, error) {
	data, err := f.fs.ReadFile(f.name)
	if err != nil {
		return nil, err
	}
	if len(data) > len(buf) {
		return nil, pathError("read", f.name, errTooLong)
	}
	return buf[:copy(buf, data)], nil
}

func (byName) Close() error { return nil }

// maxFile bounds what ReadFile takes: the largest files of interest are DSDTs
// (under 1 MiB) and /proc/cpuinfo of large machines.
const maxFile = 16 << 20

var errTooLong = errors.New("file is longer than expected")

func pathError(op, name string, err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// A Dir is the file system below a folder: "/" for the machine itself, or the
// folder of a captured one. No name and no symbolic link leads out of it.
type Dir struct {
	root *os.Root
}

var _ FS = (*Dir)(nil)

// Host opens the machine whose files are below folder.
func Host(folder string) (*Dir, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("cannot open machine root: %w", err)
	}
	return &Dir{root}, nil
}

// Close lets go of the root.
func (d *Dir) Close() error { return d.root.Close() }

// Root returns the folder d was opened on.
func (d *Dir) Root() string { return d.root.Name() }

// ReadFile implements FS. It reads by read(2) itself: some hwmon drivers return
// EAGAIN for good, on which os.File would wait for ever.
func (d *Dir) ReadFile(name string) ([]byte, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	defer f.Close()
	fd := int(f.Fd())
	buf := make([]byte, 0, 512)
	for {
		n, err := read(fd, buf[len(buf):cap(buf)])
		if err != nil {
			return nil, pathError("read", name, err)
		}
		if n == 0 {
			return buf, nil
		}
		buf = buf[:len(buf)+n]
		if len(buf) > maxFile {
			return nil, pathError("read", name, errTooLong)
		}
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, len(buf))
		}
	}
}

func read(fd int, buf []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, buf)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// WriteFile implements FS. Truncation means nothing to a pseudo-file and keeps
// a captured machine's plain files whole.
func (d *Dir) WriteFile(name string, data []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return pathError("open", name, err)
	}
	defer f.Close()
	for {
		n, err := syscall.Write(int(f.Fd()), data)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return pathError("write", name, err)
		case n != len(data):
			return pathError("write", name, io.ErrShortWrite)
		}
		return nil
	}
}

// ReadDir implements FS.
func (d *Dir) ReadDir(name string) ([]string, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	slices.Sort(names)
	return names, nil
}

// Mkdir implements FS.
func (d *Dir) Mkdir(name string) error {
	if err := d.root.Mkdir(name, 0o755); err != nil {
		return pathError("mkdir", name, err)
	}
	return nil
}

// Remove implements FS.
func (d *Dir) Remove(name string) error {
	if err := d.root.Remove(name); err != nil {
		return pathError("rmdir", name, err)
	}
	return nil
}

// Attribute returns an extended attribute; nil if there is none.
func (d *Dir) Attribute(name, attribute string) ([]byte, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, 256)
	n, err := syscall.Getxattr(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), attribute, buf)
	switch {
	case errors.Is(err, syscall.ENODATA) || errors.Is(err, syscall.ENOTSUP):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("attribute %s: %w", attribute, err)
	}
	return buf[:n], nil
}

// Open implements Opener: the file stays open and is read with pread(2).
func (d *Dir) Open(name string) (File, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &openFile{f: f, fd: int(f.Fd()), name: name}, nil
}

type openFile struct {
	f    *os.File
	fd   int
	name string
}

func (o *openFile) ReadAt0(buf []byte) ([]byte, error) {
	for {
		n, err := syscall.Pread(o.fd, buf, 0)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return nil, pathError("read", o.name, err)
		case n == len(buf):
			return nil, pathError("read", o.name, errTooLong)
		}
		return buf[:n], nil
	}
}

func (o *openFile) Close() error { return o.f.Close() }

// Numbered returns the N of every name of the form prefixN, ascending.
func Numbered(names []string, prefix string) []int {
	var out []int
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			if n, err := strconv.Atoi(rest); err == nil && n >= 0 && strconv.Itoa(n) == rest {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out
}

// A Warning is one attribute that could not be read or understood.
type Warning struct {
	File    string `json:"file"`
	Problem string `json:"problem"`
}

func (w Warning) String() string { return w.File + ": " + w.Problem }

// A Reader reads attributes of a machine and keeps going: an absent attribute
// is nil, a broken one is nil and a warning. It may be used by several
// goroutines.
type Reader struct {
	fs       FS
	mu       sync.Mutex
	warnings []Warning
}

// NewReader returns a Reader of m.
func NewReader(m FS) *Reader { return &Reader{fs: m} }

// FS returns the machine r reads.
func (r *Reader) FS() FS { return r.fs }

// Warn notes a problem with a file.
func (r *Reader) Warn(file, problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.warnings = append(r.warnings, Warning{file, problem})
}

// Warnings returns what has been noted, in order of file name.
func (r *Reader) Warnings() []Warning {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.warnings)
	slices.SortStableFunc(out, func(a, b Warning) int { return strings.Compare(a.File, b.File) })
	return slices.Compact(out)
}

// Absent reports whether err says that there is no such file.
func Absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// Bytes returns the content of a file; nil if absent, nil and a warning if it
// cannot be read.
func (r *Reader) Bytes(name string) []byte {
	data, err := r.fs.ReadFile(name)
	if err != nil {
		if !Absent(err) {
			r.Warn(name, bare(err))
		}
		return nil
	}
	if data == nil {
		data = []byte{}
	}
	return data
}

// Names lists a directory; nil if absent, nil and a warning if it cannot be read.
func (r *Reader) Names(dir string) []string {
	names, err := r.fs.ReadDir(dir)
	if err != nil && !Absent(err) {
		r.Warn(dir, bare(err))
	}
	return names
}

// Text returns the content of a file without surrounding white space.
func (r *Reader) Text(name string) *string {
	return Value(r, name, func(s string) (string, error) { return s, nil })
}

// Uint returns a file's decimal number.
func (r *Reader) Uint(name string) *uint64 { return Value(r, name, ParseUint) }

// Int returns a file's decimal number, which may be negative.
func (r *Reader) Int(name string) *int64 { return Value(r, name, ParseInt) }

// Value reads a file with the parser given; nil if absent, nil and a warning if
// the parser refuses. The parser gets the content without surrounding space.
func Value[T any](r *Reader, name string, parse func(string) (T, error)) *T {
	data := r.Bytes(name)
	if data == nil {
		return nil
	}
	v, err := parse(strings.TrimSpace(string(data)))
	if err != nil {
		r.Warn(name, err.Error())
		return nil
	}
	return &v
}

// ParseUint reads a decimal number that is not negative.
func ParseUint(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number from 0 to 2^64-1", clip(s))
	}
	return v, nil
}

// ParseInt reads a decimal number.
func ParseInt(s string) (int64, error) {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", clip(s))
	}
	return v, nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

// bare drops the path from a path error: warnings name the file themselves.
func bare(err error) string {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return "cannot " + pe.Op + ": " + pe.Err.Error()
	}
	return err.Error()
}
