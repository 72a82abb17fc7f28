package oci

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks is how many symbolic links the kernel follows.
const maxLinks = 40

// inImage follows the symbolic links of an image on the way to a mount's destination,
// those too that lead to what is not there, such as /etc/resolv.conf to a file in /run:
// mounts makes that then. Roots are the folders the root is made of, the top one first.
// What is in a folder that is covered by then is not the image's, and left as it is.
//
// It looks, and opens nothing: whoever exchanges what it saw changes where in the root the
// mount is, which openat2 never leaves.
func inImage(roots []string, destination string, covered []string) string {
	rest := strings.Split(strings.Trim(path.Clean("/"+destination), "/"), "/")
	at := "/"
	for links := 0; len(rest) > 0; {
		if at != "/" && slices.Contains(covered, at) {
			break
		}
		name := path.Join(at, rest[0])
		target, isLink := linkIn(roots, name)
		if !isLink || links == maxLinks {
			at, rest = name, rest[1:]
			continue
		}
		links++
		if strings.HasPrefix(target, "/") {
			at = "/"
		}
		rest = append(strings.FieldsFunc(target, func(r rune) bool { return r == '/' }), rest[1:]...)
	}
	return path.Join(append([]string{at}, rest...)...)
}

// linkIn is the target of a link that the topmost root which has the name has there.
func linkIn(roots []string, name string) (string, bool) {
	for _, root := range roots {
		file := filepath.Join(root, name)
		if info, err := os.Lstat(file); err == nil {
			if info.Mode()&os.ModeSymlink == 0 {
				return "", false
			}
			target, err := os.Readlink(file)
			return target, err == nil
		}
	}
	return "", false
}
