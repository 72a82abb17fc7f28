package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func discard(t testing.TB) *log.Logger { return log.New(io.Discard, "", 0) }

// What nobody needs goes, what is needed stays.
func TestPrune(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	layers := demoLayers(t)
	big, small := writeLayout(t, imageOf(t, layers...)), writeLayout(t, imageOf(t, layers[:2]...))
	one := get(t, s, big)
	get(t, s, small)
	root(t, s, one, "c", RootOptions{Writable: true})
	prune := func(images, layers int) {
		t.Helper()
		p, err := s.Prune(t.Context())
		if err != nil || p.Images != images || p.Layers != layers {
			t.Errorf("%+v, %v; want %d images, %d layers", p, err, images, layers)
		}
	}
	if _, err := s.Root(t.Context(), one, "c", RootOptions{}); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	prune(0, 0)
	if err := s.Remove(t.Context(), one.Digest); err != nil {
		t.Fatal(err)
	}
	prune(1, 0) // the container's
	if roots, err := s.Roots(); err != nil || len(roots) != 1 || roots[0].ID != "c" || roots[0].Image != one.Digest {
		t.Errorf("%+v, %v", roots, err)
	}
	if err := s.RemoveRoot(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	prune(0, 1)
	_, err := s.Root(t.Context(), one, "d", RootOptions{})
	wantErr(t, err, "the image was removed since: get it again")
	if err := s.Remove(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	prune(1, 2)
	wantErr(t, s.Remove(t.Context(), small), "there is none")
	if left := tree(t, s.dir); len(left) != 7 { // the folders, and lock
		t.Errorf("%v", left)
	}
	get(t, s, big)
}

// A layer whose files were lost is got again.
func TestLostLayer(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	ref := writeLayout(t, imageOf(t, demoLayers(t)...))
	img := get(t, s, ref)
	if err := os.RemoveAll(filepath.Dir(s.layer(img.Layers[1]))); err != nil {
		t.Fatal(err)
	}
	img = get(t, s, ref)
	root(t, s, img, "c", RootOptions{})
	write(t, s.refFile(ref, img.Platform), []byte("{"))
	_, err := s.List(t.Context())
	wantErr(t, err, "removing the file makes the image be got again")
}

// Several at once get one image, and are not pruned under their hands.
func TestTogether(t *testing.T) {
	needRoot(t)
	d := t.TempDir()
	ref := writeLayout(t, imageOf(t, demoLayers(t)...))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s, err := Open(d)
			if err != nil {
				t.Error(err)
				return
			}
			if i%4 == 3 {
				if _, err := s.Prune(t.Context()); err != nil {
					t.Error(err)
				}
				return
			}
			img, err := s.Get(t.Context(), ref, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if r, err := s.Root(t.Context(), img, fmt.Sprint("c", i), RootOptions{}); err != nil || tree(t, r.Lower[0])["etc/hostname"] == "" {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	wg.Wait()
	// A lock that another has is waited for, as long as the context lasts.
	s, err := Open(d)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.lock(t.Context(), unix.LOCK_SH)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.Prune(ctx)
	wantErr(t, err, "cannot lock the image store, which others use: context deadline exceeded")
}

// A process that is killed at any point leaves a store that works, and nothing that
// Open does not remove.
func TestKilled(t *testing.T) {
	needRoot(t)
	d := t.TempDir()
	ref := writeLayout(t, imageOf(t, demoLayers(t)...))
	clean, err := Open(filepath.Join(d, "clean"))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	img := get(t, clean, ref)
	root(t, clean, img, "c", RootOptions{Writable: true, Copy: true})
	whole := time.Since(start)
	wantLayers, wantRoot := content(t, clean.path("layers")), tree(t, clean.path("roots", "c", "fs"))
	rng := rand.New(rand.NewSource(1))
	killed := 0
	for i := range 40 {
		dir := filepath.Join(d, fmt.Sprint(i%4)) // some begin with what is left
		c := helper("get", dir, ref)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(rng.Int63n(int64(whole)+int64(30*time.Millisecond))), func() { c.Process.Kill() })
		if c.Wait() != nil {
			killed++
		}
		kill.Stop()
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(s.path("tmp")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if _, err := s.List(t.Context()); err != nil {
			t.Error(err)
		}
		if rs, err := s.Roots(); err != nil {
			t.Error(err)
		} else if len(rs) == 1 {
			if d := cmp.Diff(wantRoot, tree(t, rs[0].Path)); d != "" {
				t.Error(d)
			}
		}
		img := get(t, s, ref)
		if d := cmp.Diff(wantLayers, content(t, s.path("layers"))); d != "" {
			t.Error(d)
		}
		if err := s.RemoveRoot(t.Context(), "c"); err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if err := s.Remove(t.Context(), img.Digest); err != nil {
			t.Error(err)
		}
		if _, err := s.Prune(t.Context()); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(s.path("layers")); len(left) > 0 {
			t.Errorf("not pruned: %v", left)
		}
	}
	if killed < 5 {
		t.Errorf("only %d of 40 were killed on the way", killed)
	}
	t.Logf("%d of 40 killed on the way of %v", killed, whole)
}

// content is a tree without what has the time of its making: records, whiteouts.
func content(t *testing.T, dir string) map[string]string {
	out := tree(t, dir)
	for k, v := range out {
		if !strings.Contains(k, "/fs") || strings.HasPrefix(v, "020000 ") && strings.HasSuffix(v, " 0:0") {
			out[k] = ""
		}
	}
	return out
}

func helperGet() error {
	s, err := Open(os.Args[1])
	if err != nil {
		return err
	}
	img, err := s.Get(context.Background(), os.Args[2], Options{})
	if err != nil {
		return err
	}
	_, err = s.Root(context.Background(), img, "c", RootOptions{Writable: true, Copy: true})
	return err
}

// FuzzLayer unpacks whatever it is upon a layer; nothing may come to be outside.
func FuzzLayer(f *testing.F) {
	needRoot(f)
	for _, l := range demoLayers(f)[1:] { // the first is large, which makes fuzzing slow
		f.Add(l)
	}
	f.Add(tarOf(f, dir("usr/lib", 0o750).xattr("user.note", "hi"), file("usr/lib/.wh.x", ""), file("bin/ping", "p").xattr("security.capability", capNetRaw),
		dev("dev/null", tar.TypeChar, 1, 3), dev("dev/sda", tar.TypeBlock, 8, 0), dev("fifo", tar.TypeFifo, 0, 0), file("twice", "1"), dir("twice", 0o700), hard("g", "f")))
	f.Add(tarOf(f, link("a", "../../../outside"), file("a/b", "x"), hard("c", "a/b"), dir("a", 0)))
	f.Add(rawTar("../evil", '5'))
	f.Fuzz(unpackSafely)
}

// FuzzEntries unpacks tars that are well formed, of entries that get in one another's
// way: three bytes are an entry's type, its name, and its link's target.
func FuzzEntries(f *testing.F) {
	needRoot(f)
	names := []string{"a", "b", "a/b", "a/b/a", "b/a", "lib", "lib/x", "lib/a", "up", "up/a", "f", "f/a", "usr/lib", "usr/lib/x", "outside/a", "/", "a/../b", "./a/", "up/../a"}
	targets := append(names, "/usr/lib", "../../../../outside", "a/../..", ".", "/")
	tarFrom := func(t testing.TB, script []byte) []byte {
		var es []ent
		for i := 0; i+2 < len(script) && len(es) < 150; i += 3 {
			name, target := names[int(script[i+1])%len(names)], targets[int(script[i+2])%len(targets)]
			parent, base := path.Split(strings.TrimSuffix(name, "/"))
			switch script[i] % 8 {
			case 0, 1:
				es = append(es, file(strings.TrimSuffix(name, "/"), target))
			case 2, 3:
				es = append(es, dir(name, int64(script[i+2])|0o100))
			case 4:
				es = append(es, link(strings.TrimSuffix(name, "/"), target))
			case 5:
				es = append(es, hard(strings.TrimSuffix(name, "/"), target))
			case 6:
				es = append(es, file(parent+".wh."+base, ""))
			case 7:
				es = append(es, file(parent+".wh..wh..opq", ""))
			}
		}
		for i := range es {
			if es[i].Name == "" {
				es[i].Name = "."
			}
		}
		return tarOf(t, es...)
	}
	rng := rand.New(rand.NewSource(1))
	for range 60 {
		script := make([]byte, 3*(1+rng.Intn(12)))
		rng.Read(script)
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) { unpackSafely(t, tarFrom(t, script)) })
}

// unpackSafely unpacks a tar upon a layer, and holds what comes of it against what
// may be, and against what overlayfs shows.
func unpackSafely(t *testing.T, data []byte) {
	base := tarOf(t, link("lib", "/usr/lib"), file("usr/lib/x", "x"), link("up", "../../../../outside"), dir("outside", 0o755), file("f", "f"))
	l := Limits{Bytes: 1 << 20, Entries: 200, Path: 1000}
	top := t.TempDir()
	if err := os.Mkdir(top+"/outside", 0o755); err != nil {
		t.Fatal(err)
	}
	lower, err := unpackInto(t, top, l, base)
	if err != nil {
		t.Fatal(err)
	}
	before := tree(t, lower[0])
	upper := filepath.Join(top, "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	st, err := openStack("trusted.overlay.", upper, lower[0])
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	u := &unpacker{stack: st, limits: l}
	err = u.unpack(t.Context(), bytes.NewReader(data))
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("%q has several lines", err)
	}
	if left, _ := os.ReadDir(top); len(left) != 3 {
		t.Errorf("outside: %v", left)
	}
	if left, _ := os.ReadDir(top + "/outside"); len(left) > 0 {
		t.Errorf("outside: %v", left)
	}
	if d := cmp.Diff(before, tree(t, lower[0])); d != "" {
		t.Errorf("the layer below changed: %s", d)
	}
	if err != nil {
		return
	}
	// What was unpacked, overlayfs takes, and a copy is the same.
	got := tree(t, overlay(t, &Root{Lower: []string{upper, lower[0]}}))
	m, err := st.root()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	to := filepath.Join(top, "copy")
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(to, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c := &copier{links: map[[2]uint64]copied{}}
	defer c.close()
	if err := c.tree(m, fd); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, tree(t, to)); d != "" {
		t.Errorf("the overlay (-) and the copy (+):\n%s", d)
	}
}

// cpuTime is what the process has used so far: unlike a clock it means the same on a
// machine that others use.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkUnpack is a root of 2000 small files and 8 of 4 MiB, from the file to a
// synced layer.
func BenchmarkUnpack(b *testing.B) {
	needRoot(b)
	rng := rand.New(rand.NewSource(1))
	random := func(n int) string {
		p := make([]byte, n)
		for i := range p {
			p[i] = "0123456789abcdef"[rng.Intn(16)]
		}
		return string(p)
	}
	var es []ent
	for i := range 2000 {
		es = append(es, file(fmt.Sprintf("usr/share/d%d/f%d", i/20, i), random(2000)))
	}
	for i := range 8 {
		es = append(es, file(fmt.Sprintf("usr/lib/big%d", i), random(4<<20)))
	}
	plain := tarOf(b, es...)
	for name, data := range map[string][]byte{"plain": plain, "gzip": gzipped(b, plain), "zstd": zstded(b, plain)} {
		b.Run(name, func(b *testing.B) {
			ref := filepath.Join(b.TempDir(), "root.tar")
			write(b, ref, data)
			b.SetBytes(int64(len(plain)))
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				s := openStore(b)
				start := cpuTime(b)
				b.StartTimer()
				if _, err := s.Get(b.Context(), ref, Options{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				used += cpuTime(b) - start
				if err := os.RemoveAll(s.dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}
