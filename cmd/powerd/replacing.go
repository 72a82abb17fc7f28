//go:build !powerd_oci

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// replacing prepares to write a file as a whole, so that what cannot be written is told
// before a long run, and what was there stays until there is something better. save puts
// what write writes in its place; drop forgets what was not saved. Without a name nothing
// is written.
func replacing(name string) (save func(write func(io.Writer) error) error, drop func(), err error) {
	if name == "" {
		return func(func(io.Writer) error) error { return nil }, func() {}, nil
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("cannot write %s: it is not a regular file", name)
	}
	tmp := fmt.Sprintf("%s.%d.new", name, os.Getpid())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot write %s: %v", name, err)
	}
	save = func(write func(io.Writer) error) error {
		err := write(f)
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err == nil {
			err = os.Rename(tmp, name)
		}
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", name, err)
		}
		return nil
	}
	drop = func() {
		f.Close()
		os.Remove(tmp) // gone where it was saved
	}
	return save, drop, nil
}
