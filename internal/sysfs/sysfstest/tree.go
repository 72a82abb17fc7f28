// Package sysfstest lays out machines for tests.
package sysfstest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/powerd/powerd/internal/sysfs"
)

// Tree writes a machine given as a txtar archive ("-- sys/.../online --"
// headers) into a temporary folder and opens it. A file whose content is
// "-> TARGET" becomes a symbolic link.
func Tree(t testing.TB, archive string) (machine *sysfs.Dir, folder string) {
	t.Helper()
	folder = t.TempDir()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(folder, filepath.FromSlash(f.Name))
		if strings.HasSuffix(f.Name, "/") {
			if err := os.MkdirAll(name, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(string(f.Data), "-> "); ok {
			err = os.Symlink(strings.TrimSpace(target), name)
		} else {
			err = os.WriteFile(name, f.Data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := sysfs.Host(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, folder
}
