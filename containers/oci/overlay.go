package oci

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// An Overlay is a root made of folders: it is mounted on the bundle's root.path in
// the container's mount namespace, and nowhere else.
//
// See the kernel's Documentation/filesystems/overlayfs.rst.
type Overlay struct {
	// Lower are the folders that are not written to, the top one first.
	Lower []string `json:"lower"`
	// Upper gets what is written, with the help of Work; without them the root is
	// read-only.
	Upper string `json:"upper,omitempty"`
	Work  string `json:"work,omitempty"`
	// UserXattr lets it keep its marks in user.overlay attributes.
	UserXattr bool `json:"userxattr,omitempty"`
}

// options are mount(2)'s, with folders relative to parent: all of them have to fit in
// a page.
func (o *Overlay) options() (parent, data string, err error) {
	all := append([]string{}, o.Lower...)
	if o.Upper != "" {
		all = append(all, o.Upper, o.Work)
	}
	parent = filepath.Dir(all[0])
	for _, dir := range all {
		if !filepath.IsAbs(dir) {
			return "", "", fmt.Errorf("cannot make the root: the folder %q of its overlay is no absolute path", dir)
		}
		for !strings.HasPrefix(dir, strings.TrimSuffix(parent, "/")+"/") {
			parent = filepath.Dir(parent)
		}
	}
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`)
	for i := range all {
		all[i] = escape.Replace(strings.TrimPrefix(all[i][len(parent):], "/"))
	}
	data = "lowerdir=" + strings.Join(all[:len(o.Lower)], ":")
	if o.Upper != "" {
		data += ",upperdir=" + all[len(all)-2] + ",workdir=" + all[len(all)-1]
	}
	if o.UserXattr {
		data += ",userxattr"
	}
	if len(data) > 4095 {
		return "", "", fmt.Errorf("cannot make the root: the names of its overlay's %d folders have %d bytes, a mount takes 4095", len(all), len(data))
	}
	return parent, data, nil
}

// overlay mounts it on the root's folder.
func (b *builder) overlay(rootfs string, o *Overlay) error {
	parent, data, err := o.options()
	if err != nil {
		return err
	}
	const what = "mount the root's overlay"
	b.Do(what, unix.SYS_CHDIR, parent)
	b.Do(what, unix.SYS_MOUNT, "overlay", rootfs, "overlay", 0, data)
	return nil
}
