package sysfs

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"syscall"
)

// A Write is one intended change of a file.
type Write struct {
	File  string `json:"file"`
	Value string `json:"value"`
}

// An Overlay is a dry run: it reads through to a machine, keeps what is written
// to itself, and reads its own writes back. It is not safe for concurrent use.
type Overlay struct {
	under  FS
	values map[string]string
	gone   map[string]bool
	dirs   map[string]bool
	writes []Write
}

// NewOverlay returns a dry run over m.
func NewOverlay(m FS) *Overlay {
	return &Overlay{m, map[string]string{}, map[string]bool{}, map[string]bool{}, nil}
}

// Writes returns what was written, in order.
func (o *Overlay) Writes() []Write { return slices.Clone(o.writes) }

// ReadFile implements FS.
func (o *Overlay) ReadFile(name string) ([]byte, error) {
	if v, ok := o.values[name]; ok {
		return []byte(v), nil
	}
	if o.gone[path.Dir(name)] {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
	}
	return o.under.ReadFile(name)
}

// WriteFile implements FS. It refuses files the machine does not have.
func (o *Overlay) WriteFile(name string, data []byte) error {
	if _, err := o.ReadFile(name); err != nil && Absent(err) {
		return err
	}
	o.values[name] = string(data)
	o.writes = append(o.writes, Write{name, string(data)})
	return nil
}

// ReadDir implements FS.
func (o *Overlay) ReadDir(name string) ([]string, error) {
	if o.gone[name] {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
	}
	names, err := o.under.ReadDir(name)
	if err != nil && !o.dirs[name] {
		return nil, err
	}
	have := map[string]bool{}
	for _, n := range names {
		have[n] = !o.gone[path.Join(name, n)]
	}
	for d := range o.dirs {
		if path.Dir(d) == name {
			have[path.Base(d)] = true
		}
	}
	maps.DeleteFunc(have, func(_ string, there bool) bool { return !there })
	return slices.Sorted(maps.Keys(have)), nil
}

// Mkdir implements FS.
func (o *Overlay) Mkdir(name string) error {
	if _, err := o.ReadDir(name); err == nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.EEXIST}
	}
	if _, err := o.ReadDir(path.Dir(name)); err != nil {
		return pathError("mkdir", name, err)
	}
	delete(o.gone, name)
	o.dirs[name] = true
	return nil
}

// Remove implements FS.
func (o *Overlay) Remove(name string) error {
	if _, err := o.ReadDir(name); err != nil {
		return pathError("rmdir", name, err)
	}
	delete(o.dirs, name)
	o.gone[name] = true
	return nil
}
