package oci

import (
	"bufio"
	"cmp"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxPasswd is how much of a container's list of users is read.
const maxPasswd = 1 << 20

// environment is what a program gets of a list of NAME=VALUE, of which later ones win. It
// adds HOME where there is none, as other runtimes do: what the container's /etc/passwd
// says of a user, / for one that it does not know.
func environment(list []string, uid uint32, passwd func() (*os.File, error)) []string {
	env := make([]string, 0, len(list)+1)
	at := map[string]int{}
	for _, v := range list {
		name, _, _ := strings.Cut(v, "=")
		if i, ok := at[name]; ok {
			env[i] = v
			continue
		}
		at[name] = len(env)
		env = append(env, v)
	}
	if slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }) {
		return env
	}
	home := "/"
	if f, err := passwd(); err == nil {
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			if h := findUser(f, uid)[5]; !strings.Contains(h, "\x00") {
				home = cmp.Or(h, home)
			}
		}
	}
	return append(env, "HOME="+home)
}

// findUser returns the fields of a user's line:
//
//	root:x:0:0:root:/root:/bin/sh
//
// See passwd(5).
func findUser(r io.Reader, uid uint32) (fields [7]string) {
	for lines := bufio.NewScanner(io.LimitReader(r, maxPasswd)); lines.Scan(); {
		words := strings.Split(lines.Text(), ":")
		if len(words) < 7 {
			continue
		}
		if n, err := strconv.ParseUint(words[2], 10, 32); err == nil && uint32(n) == uid {
			return [7]string(words[:7])
		}
	}
	return fields
}

// openInside opens a file of a root that may be hostile: nothing outside, and no pipe
// that would be waited for.
func openInside(root, name string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: inRoot})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// passwdOf is the list of users of a container to come, whose roots are folders of the
// host's, the top one first.
func passwdOf(s *specs.Spec, roots []string) func() (*os.File, error) {
	return func() (f *os.File, err error) {
		for _, m := range slices.Backward(s.Mounts) {
			below, covered := strings.CutPrefix("/etc/passwd", filepath.Clean(m.Destination))
			switch {
			case !covered || below != "" && below[0] != '/':
			case !filepath.IsAbs(m.Source): // a new file system, or the bundle's own
				return nil, fs.ErrNotExist
			default:
				return openInside("/", m.Source+below)
			}
		}
		for _, root := range roots {
			if f, err = openInside(root, "etc/passwd"); err == nil {
				return f, nil
			}
		}
		return nil, err
	}
}
