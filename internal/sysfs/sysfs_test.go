package sysfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
)

const tree = `
-- sys/a --
1
-- sys/b --
x y
-- sys/link --
-> a
-- sys/out --
-> /etc/passwd
-- sys/d/cpu10/x --
-- sys/d/cpu2/x --
-- sys/d/cpu02/x --
-- sys/d/cpuidle/x --
`

func TestDir(t *testing.T) {
	m, folder := sysfstest.Tree(t, tree)
	if got, err := m.ReadFile("sys/link"); err != nil || string(got) != "1\n" {
		t.Errorf("link reads %q, %v", got, err)
	}
	for _, bad := range []string{"sys/out", "../x", "/etc/passwd"} {
		if _, err := m.ReadFile(bad); err == nil {
			t.Errorf("reading %s left the root", bad)
		}
	}
	if err := m.WriteFile("sys/new", []byte("1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("writing a file that is not there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(folder, "sys/new")); err == nil {
		t.Error("WriteFile made a file")
	}
	names, err := m.ReadDir("sys/d")
	if diff := cmp.Diff([]int{2, 10}, sysfs.Numbered(names, "cpu")); diff != "" || err != nil {
		t.Errorf("Numbered: %s %v", diff, err)
	}
	f, err := sysfs.Open(m, "sys/a")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, v := range []string{"1\n", "22\n", "3\n"} {
		if err := m.WriteFile("sys/a", []byte(v)); err != nil {
			t.Fatal(err)
		}
		if got, err := f.ReadAt0(make([]byte, 16)); err != nil || string(got) != v {
			t.Errorf("the open file reads %q, %v; want %q", got, err, v)
		}
	}
	if _, err := f.ReadAt0(make([]byte, 2)); err == nil {
		t.Error("a file longer than its buffer was cut without an error")
	}
}

func TestReader(t *testing.T) {
	m, _ := sysfstest.Tree(t, tree)
	r := sysfs.NewReader(m)
	if v := r.Uint("sys/a"); v == nil || *v != 1 {
		t.Errorf("Uint(a) = %v", v)
	}
	if r.Uint("sys/none") != nil || len(r.Warnings()) != 0 {
		t.Errorf("an absent file is not nil, or warns: %v", r.Warnings())
	}
	if r.Uint("sys/b") != nil {
		t.Error("Uint(b) is not nil")
	}
	want := []sysfs.Warning{{File: "sys/b", Problem: `"x y" is not a number from 0 to 2^64-1`}}
	if diff := cmp.Diff(want, r.Warnings()); diff != "" {
		t.Error(diff)
	}
}

func TestOverlay(t *testing.T) {
	m, folder := sysfstest.Tree(t, tree)
	o := sysfs.NewOverlay(m)
	if err := o.WriteFile("sys/a", []byte("9")); err != nil {
		t.Fatal(err)
	}
	if err := o.WriteFile("sys/none", []byte("9")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run writes files that are not there: %v", err)
	}
	if err := o.Mkdir("sys/d/new"); err != nil {
		t.Fatal(err)
	}
	if err := o.Mkdir("sys/d/new"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Mkdir twice: %v", err)
	}
	if names, _ := o.ReadDir("sys/d"); !strings.Contains(strings.Join(names, " "), "new") {
		t.Errorf("ReadDir = %v", names)
	}
	if err := o.Remove("sys/d/cpu2"); err != nil {
		t.Fatal(err)
	}
	if _, err := o.ReadFile("sys/d/cpu2/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed folder's file reads: %v", err)
	}
	if got, _ := o.ReadFile("sys/a"); string(got) != "9" {
		t.Errorf("a = %q", got)
	}
	if got, _ := os.ReadFile(filepath.Join(folder, "sys/a")); string(got) != "1\n" {
		t.Errorf("a dry run wrote %q", got)
	}
}
