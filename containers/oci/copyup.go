package oci

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copiedUp makes the mount of a tmpfs that holds what it will cover in the root.
func copiedUp(rootfs, destination, source string, options []string) (*os.File, error) {
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if source != "" {
		err = unix.FsconfigSetString(fd, "source", source)
	}
	for _, d := range options {
		if key, value, ok := strings.Cut(d, "="); ok {
			err = cmp.Or(err, named(d, unix.FsconfigSetString(fd, key, value)))
		} else {
			err = cmp.Or(err, named(d, unix.FsconfigSetFlag(fd, key)))
		}
	}
	if err = cmp.Or(err, unix.FsconfigCreate(fd)); err != nil {
		return nil, err
	}
	// What it is to be, read-only for one, it becomes when it is attached.
	mfd, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	mount := os.NewFile(uintptr(mfd), "tmpfs")
	if err := fill(mount, rootfs, destination); err != nil {
		mount.Close()
		return nil, err
	}
	return mount, nil
}

func named(option string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("option %s: %w", option, err)
}

// fill copies a folder of the root, however its links point, into a mount.
func fill(mount *os.File, rootfs, name string) error {
	root, err := os.Open(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), strings.TrimLeft(name, "/"), &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: inRoot})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil // the folder is still to be made
	case err != nil:
		return fmt.Errorf("open %s in the root: %w", name, err)
	}
	defer unix.Close(fd)
	from, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", mount.Fd()))
	if err != nil {
		return err
	}
	defer to.Close()
	return copyTree(from, to)
}

// copyTree copies a tree with owners and modes. What is neither file, folder nor
// link, such as a socket, is left out.
func copyTree(from, to *os.Root) error {
	var folders []string
	err := fs.WalkDir(from.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := from.Lstat(name)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		switch info.Mode().Type() {
		case fs.ModeDir:
			if name == "." { // its mode is an option of the mount
				return nil
			}
			folders = append(folders, name)
			return cmp.Or(to.Mkdir(name, 0o700), to.Lchown(name, int(st.Uid), int(st.Gid)))
		case fs.ModeSymlink:
			link, err := from.Readlink(name)
			return cmp.Or(err, to.Symlink(link, name), to.Lchown(name, int(st.Uid), int(st.Gid)))
		case 0:
			return copyFile(from, to, name, info, st)
		}
		return nil
	})
	for _, name := range folders { // now that nothing has to be made in them
		if err == nil {
			var info fs.FileInfo
			if info, err = from.Lstat(name); err == nil {
				err = to.Chmod(name, info.Mode())
			}
		}
	}
	return err
}

func copyFile(from, to *os.Root, name string, info fs.FileInfo, st *syscall.Stat_t) error {
	r, err := from.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	// The mode after the owner, whose change takes the set-uid bit.
	return cmp.Or(err, w.Chown(int(st.Uid), int(st.Gid)), w.Chmod(info.Mode()), w.Close())
}
