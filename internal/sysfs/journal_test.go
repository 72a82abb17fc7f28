package sysfs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
)

const knobs = `
-- sys/min --
800
-- sys/max --
2400
-- sys/set --

-- cg/cgroup.subtree_control --
memory
-- cg/x/file --
`

func open(t *testing.T, dir string, m sysfs.FS) *sysfs.Journal {
	t.Helper()
	j, err := sysfs.OpenJournal(dir, m, "/", "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func outcomes(rs []sysfs.Restored) map[string]string {
	out := map[string]string{}
	for _, r := range rs {
		out[r.File] = r.Outcome
	}
	return out
}

func TestJournalRestores(t *testing.T) {
	m, folder := sysfstest.Tree(t, knobs)
	dir := t.TempDir()
	j := open(t, dir, m)
	for _, w := range []sysfs.Write{{File: "sys/max", Value: "1200"}, {File: "sys/min", Value: "1200"}, {File: "sys/set", Value: "0-1"}, {File: "sys/max", Value: "1600"}} {
		if err := j.WriteFile(w.File, []byte(w.Value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Mkdir("cg/new"); err != nil {
		t.Fatal(err)
	}
	j.Close() // as SIGKILL would: nothing else happens

	j = open(t, dir, m)
	if j.Pending() != 4 {
		t.Fatalf("%d entries survive, want 4", j.Pending())
	}
	rs, err := j.Restore(false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"sys/max": "restored", "sys/min": "restored", "sys/set": "restored", "cg/new": "restored"}
	if diff := cmp.Diff(want, outcomes(rs)); diff != "" {
		t.Error(diff)
	}
	for file, want := range map[string]string{"sys/min": "800\n", "sys/max": "2400\n", "sys/set": "\n"} {
		if got, _ := os.ReadFile(filepath.Join(folder, file)); string(got) != want {
			t.Errorf("%s = %q, want %q", file, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "cg/new")); err == nil {
		t.Error("the directory it made is still there")
	}
	if j.Pending() != 0 {
		t.Errorf("%d entries after Restore", j.Pending())
	}
}

func TestJournalForeignChange(t *testing.T) {
	for _, tt := range []struct {
		reclaim bool
		outcome string
		value   string
	}{{false, sysfs.OutcomeKept, "900"}, {true, sysfs.OutcomeRestored, "800\n"}} {
		m, folder := sysfstest.Tree(t, knobs)
		j := open(t, t.TempDir(), m)
		if err := j.WriteFile("sys/min", []byte("1200")); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(folder, "sys/min"), []byte("900"), 0o644)
		rs, err := j.Restore(tt.reclaim)
		got, _ := os.ReadFile(filepath.Join(folder, "sys/min"))
		if err != nil || len(rs) != 1 || rs[0].Outcome != tt.outcome || string(got) != tt.value {
			t.Errorf("reclaim %v: %v, %v, file %q", tt.reclaim, rs, err, got)
		}
	}
}

func TestJournalSubtreeControl(t *testing.T) {
	m, _ := sysfstest.Tree(t, knobs)
	k := &kernelish{FS: m}
	j := open(t, t.TempDir(), k)
	if err := j.WriteFile("cg/cgroup.subtree_control", []byte("+cpuset +cpu")); err != nil {
		t.Fatal(err)
	}
	if got, _ := j.ReadFile("cg/cgroup.subtree_control"); string(got) != "memory cpuset cpu\n" {
		t.Fatalf("the fake reads %q", got)
	}
	if rs, err := j.Restore(false); err != nil || rs[0].Outcome != sysfs.OutcomeRestored {
		t.Errorf("%v, %v", rs, err)
	}
}

// kernelish gives plain files the kernel's behaviour where it matters here:
// subtree_control takes changes, min and max refuse to cross, reads lag nothing.
type kernelish struct {
	sysfs.FS
	fail func(name string) error
}

func (k *kernelish) WriteFile(name string, data []byte) error {
	if k.fail != nil {
		if err := k.fail(name); err != nil {
			return err
		}
	}
	read := func(n string) string { b, _ := k.FS.ReadFile(n); return strings.TrimSpace(string(b)) }
	v := strings.TrimSpace(string(data))
	var lo, hi int
	switch name {
	case "sys/min":
		fmt.Sscan(v, &lo)
		fmt.Sscan(read("sys/max"), &hi)
	case "sys/max":
		fmt.Sscan(v, &hi)
		fmt.Sscan(read("sys/min"), &lo)
	case "cg/cgroup.subtree_control":
		have := strings.Fields(read(name))
		for _, c := range strings.Fields(v) {
			if c[0] == '+' {
				have = append(have, c[1:])
				continue
			}
			for i := range have {
				if have[i] == c[1:] {
					have = append(have[:i], have[i+1:]...)
					break
				}
			}
		}
		return k.FS.WriteFile(name, []byte(strings.Join(have, " ")+"\n"))
	}
	if lo > hi {
		return syscall.EINVAL
	}
	return k.FS.WriteFile(name, data)
}

// Whatever was written in whatever order, and wherever it was cut off, Restore
// brings the first values back.
func TestJournalRandom(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m, folder := sysfstest.Tree(t, knobs)
		k := &kernelish{FS: m}
		dir := t.TempDir()
		for range 1 + rng.IntN(3) { // so many lives, each ended by a kill
			j, err := sysfs.OpenJournal(dir, k, "/", "boot-1")
			if err != nil {
				t.Fatal(seed, err)
			}
			left := rng.IntN(12)
			k.fail = func(string) error {
				if left--; left < 0 {
					return syscall.EIO
				}
				return nil
			}
			for range rng.IntN(12) {
				file := []string{"sys/min", "sys/max", "sys/set", "cg/cgroup.subtree_control"}[rng.IntN(4)]
				value := fmt.Sprint(800 + 100*rng.IntN(17))
				if file == "cg/cgroup.subtree_control" {
					value = "+cpu"
					if b, _ := k.ReadFile(file); strings.Contains(string(b), "cpu") {
						value = "-cpu"
					}
				}
				j.WriteFile(file, []byte(value)) // refusals are part of the game
			}
			k.fail = nil
			j.Close()
			if rng.IntN(2) == 0 { // a line cut short
				if b, _ := os.ReadFile(filepath.Join(dir, "journal")); len(b) > 0 {
					os.WriteFile(filepath.Join(dir, "journal"), append(b, `{"file":"sys/min","fi`...), 0o600)
				}
			}
		}
		j, err := sysfs.OpenJournal(dir, k, "/", "boot-1")
		if err != nil {
			t.Fatal(seed, err)
		}
		if rs, err := j.Restore(false); err != nil {
			t.Fatal(seed, rs, err)
		}
		j.Close()
		for file, want := range map[string]string{"sys/min": "800", "sys/max": "2400", "sys/set": "", "cg/cgroup.subtree_control": "memory"} {
			if got, _ := os.ReadFile(filepath.Join(folder, file)); strings.TrimSpace(string(got)) != want {
				t.Errorf("seed %d: %s = %q, want %q", seed, file, got, want)
			}
		}
	}
}

func TestJournalReportsFailures(t *testing.T) {
	m, folder := sysfstest.Tree(t, knobs)
	k := &kernelish{FS: m}
	dir := t.TempDir()
	j := open(t, dir, k)
	for _, f := range []string{"sys/min", "sys/max", "cg/x/file"} {
		if err := j.WriteFile(f, []byte("1000")); err != nil {
			t.Fatal(err)
		}
	}
	os.RemoveAll(filepath.Join(folder, "cg/x"))
	k.fail = func(name string) error {
		if name == "sys/max" {
			return syscall.EIO
		}
		return nil
	}
	rs, err := j.Restore(false)
	want := map[string]string{"sys/min": "restored", "sys/max": "failed", "cg/x/file": "vanished"}
	if diff := cmp.Diff(want, outcomes(rs)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	j.Close()
	k.fail = nil
	j = open(t, dir, k)
	if j.Pending() != 1 {
		t.Fatalf("%d entries stay, want the one that failed", j.Pending())
	}
	if rs, err := j.Restore(false); err != nil || rs[0].Outcome != sysfs.OutcomeRestored {
		t.Errorf("the second restore: %v, %v", rs, err)
	}
}

func TestJournalOpen(t *testing.T) {
	m, _ := sysfstest.Tree(t, knobs)
	dir := t.TempDir()
	j := open(t, dir, m)
	if err := j.WriteFile("sys/min", []byte("1000")); err != nil {
		t.Fatal(err)
	}
	if _, err := sysfs.OpenJournal(dir, m, "/", "boot-1"); !errors.Is(err, sysfs.ErrJournalBusy) {
		t.Errorf("a second opening: %v", err)
	}
	j.Close()
	if _, err := sysfs.OpenJournal(dir, m, "/other", "boot-1"); err == nil || !strings.Contains(err.Error(), "not of /other") {
		t.Errorf("another root: %v", err)
	}
	next, err := sysfs.OpenJournal(dir, m, "/", "boot-2")
	if err != nil || next.Pending() != 0 {
		t.Errorf("another boot: %v, %d pending", err, next.Pending())
	}
	next.Close()
	os.WriteFile(filepath.Join(dir, "journal"), []byte("{\"version\":9}\n"), 0o600)
	if _, err := sysfs.OpenJournal(dir, m, "/", "boot-1"); err == nil {
		t.Error("a journal of a newer version was taken")
	}
}

// A journal that a crash, a disk or a person has damaged is read as far as it is
// whole, or refused with a reason; what it gives can be restored without a panic.
func FuzzJournal(f *testing.F) {
	f.Add([]byte("{\"file\":\"a\",\"first\":\"1\"}\n{\"file\":\"a\",\"to\":\"2\"}\n{\"file\":\"a\",\"left\":\"2\"}\n"))
	f.Add([]byte("{\"file\":\"d\",\"made\":true}\n{\"file\":"))
	f.Add([]byte("{\"file\":\"../../x\",\"first\":\"1\"}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, _ := sysfstest.Tree(t, "-- a --\n2\n")
		dir := t.TempDir()
		open := func() (*sysfs.Journal, error) { return sysfs.OpenJournal(dir, m, "/", "boot") }
		j, err := open()
		if err != nil {
			t.Fatal(err)
		}
		j.Close()
		log, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		log.Write(data) //nolint:errcheck // reading it tells
		log.Close()
		if j, err = open(); err != nil {
			if !strings.Contains(err.Error(), "journal") {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		defer j.Close()
		n := j.Pending()
		if outcomes, _ := j.Restore(false); len(outcomes) != n { // each is told of
			t.Fatalf("%q: %d entries, %d outcomes", data, n, len(outcomes))
		}
	})
}

// A guard keeps writes and restores from what must not be seen; what a file that
// somebody else keeps stands against is theirs too.
func TestGuard(t *testing.T) {
	m, folder := sysfstest.Tree(t, knobs)
	j := open(t, t.TempDir(), m)
	j.Guard = func(m sysfs.FS, w sysfs.Write) (string, error) {
		low, err := m.ReadFile("sys/min")
		if w.File == "sys/max" && err == nil && len(w.Value) <= len("800") && strings.TrimSpace(w.Value) < strings.TrimSpace(string(low)) {
			return "sys/min", errors.New("the two would cross")
		}
		return "", nil
	}
	if err := j.WriteFile("sys/max", []byte("700")); err == nil {
		t.Error("a write that crosses is let through")
	}
	if got, _ := m.ReadFile("sys/max"); string(got) != "2400\n" {
		t.Errorf("sys/max is %q", got)
	}
	// powerd lowers the minimum and the maximum; somebody then raises the minimum.
	for _, w := range []sysfs.Write{{File: "sys/min", Value: "100"}, {File: "sys/max", Value: "999"}} {
		if err := j.WriteFile(w.File, []byte(w.Value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "sys/min"), []byte("900\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	j.Guard = func(_ sysfs.FS, w sysfs.Write) (string, error) {
		if w.File == "sys/max" {
			return "sys/min", errors.New("the two would cross")
		}
		return "", nil
	}
	all, err := j.Restore(false)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"sys/min": sysfs.OutcomeKept, "sys/max": sysfs.OutcomeKept}
	if diff := cmp.Diff(want, outcomes(all)); diff != "" {
		t.Error(diff)
	}
}
