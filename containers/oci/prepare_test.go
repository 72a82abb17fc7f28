package oci

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A network namespace is there before it is needed, and another after it was taken.
func TestPrepare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces that are the host's user namespace's")
	}
	e := &Engine{}
	stop := e.Prepare()
	defer stop()
	ours, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	seen := []os.FileInfo{ours}
	for range 3 {
		var f *os.File
		var done func()
		for deadline := time.Now().Add(20 * time.Second); f == nil; time.Sleep(time.Millisecond) {
			if f, done = e.spares.takeNetwork(); time.Now().After(deadline) {
				t.Fatal("none comes")
			}
		}
		defer f.Close()
		if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
			t.Errorf("it is %x, %v", kind, err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range seen {
			if os.SameFile(info, other) {
				t.Error("it is another's")
			}
		}
		seen = append(seen, info)
		done()
		done() // another container asks too
	}
	stop()
	if f, done := e.spares.takeNetwork(); f != nil {
		t.Error("after the stop there is one")
	} else {
		done()
	}
}
