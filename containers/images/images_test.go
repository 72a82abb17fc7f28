package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// The test binary is its own helper: a process to be killed, or one in namespaces.
func TestMain(m *testing.M) {
	if f, ok := map[string]func() error{"get": helperGet, "rootless": helperRootless}[os.Getenv("IMAGES_HELPER")]; ok {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func helper(name string, args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), "IMAGES_HELPER="+name)
	return c
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it gives files to others, which root may")
	}
}

// An ent is an entry of a tar.
type ent struct {
	tar.Header
	content string
}

func file(name, content string) ent {
	return ent{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}, content}
}
func dir(name string, mode int64) ent {
	return ent{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}}
}
func link(name, target string) ent {
	return ent{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}
func hard(name, target string) ent {
	return ent{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}}
}
func dev(name string, kind byte, major, minor int64) ent {
	return ent{Header: tar.Header{Name: name, Typeflag: kind, Mode: 0o600, Devmajor: major, Devminor: minor}}
}
func (e ent) owned(uid, gid int, mode int64) ent {
	e.Uid, e.Gid, e.Mode = uid, gid, mode
	return e
}
func (e ent) xattr(name, value string) ent {
	e.PAXRecords = map[string]string{paxXattr + name: value}
	return e
}

// capNetRaw is cap_net_raw=ep, as setcap(8) writes it: revision 2.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func tarOf(t testing.TB, entries ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.ModTime = time.Unix(1_700_000_000, 0)
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rawTar is a tar of an entry that archive/tar does not write: its name as it stands.
func rawTar(name string, kind byte) []byte {
	var h [512]byte
	copy(h[:100], name)
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        ")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(h[:], make([]byte, 1024)...)
}

func layerOf(t testing.TB, data []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	var ls []v1.Layer
	for _, l := range layers {
		ls = append(ls, layerOf(t, l))
	}
	img, err := mutate.AppendLayers(empty.Image, ls...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	want, _ := wantedPlatform("")
	c.OS, c.Architecture = want.OS, want.Architecture
	c.Config = v1.Config{
		Env: []string{"PATH=/bin", "A=b"}, Entrypoint: []string{"/bin/run"}, Cmd: []string{"x"}, WorkingDir: "/srv",
		User: "web", StopSignal: "SIGQUIT", Labels: map[string]string{"k": "v"},
	}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func openStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(t testing.TB, s *Store, ref string) *Image {
	t.Helper()
	img, err := s.Get(t.Context(), ref, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func root(t testing.TB, s *Store, img *Image, id string, o RootOptions) *Root {
	t.Helper()
	r, err := s.Root(t.Context(), img, id, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tree describes a folder's files, one line each.
func tree(t testing.TB, top string) map[string]string {
	t.Helper()
	out := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(top+"/.", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, p)
		s := fmt.Sprintf("%#o %d:%d %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if len(data) > 60 {
				data = []byte(digestOf(data))
			}
			s += " " + strconv.Quote(string(data))
			if first, ok := inodes[st.Ino]; ok && st.Nlink > 1 {
				s += " = " + first
			} else {
				inodes[st.Ino] = rel
			}
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			s += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			s += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			b := make([]byte, 100)
			for _, x := range []string{"security.capability", "user.note", "trusted.overlay.opaque", "user.overlay.opaque"} {
				if n, err := unix.Getxattr(p, x, b); err == nil {
					s += fmt.Sprintf(" %s=%q", x, b[:n])
				}
			}
		}
		out[rel] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// overlay mounts a root's overlay nowhere, and gives a path into it.
func overlay(t testing.TB, r *Root) string {
	t.Helper()
	fd, err := mountOverlay(r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

func mountOverlay(r *Root) (int, error) {
	f, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(f)
	set := func(k, v string) {
		if err == nil && v != "" {
			if err = unix.FsconfigSetString(f, k, v); err != nil {
				err = fmt.Errorf("%s=%s: %w", k, v, err)
			}
		}
	}
	for _, l := range r.Lower {
		set("lowerdir+", l)
	}
	set("upperdir", r.Upper)
	set("workdir", r.Work)
	if r.UserXattr && err == nil {
		err = unix.FsconfigSetFlag(f, "userxattr")
	}
	if err == nil {
		err = unix.FsconfigCreate(f)
	}
	if err != nil {
		return -1, err
	}
	return unix.Fsmount(f, unix.FSMOUNT_CLOEXEC, 0)
}

// unpackInto unpacks tars upon one another, and gives their folders, the base first.
func unpackInto(t testing.TB, top string, l Limits, tars ...[]byte) ([]string, error) {
	t.Helper()
	var dirs []string
	for i, data := range tars {
		d := filepath.Join(top, strconv.Itoa(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append([]string{d}, dirs...)
		st, err := openStack("trusted.overlay.", dirs...)
		if err != nil {
			t.Fatal(err)
		}
		u := &unpacker{stack: st, limits: l}
		err = u.unpack(context.Background(), bytes.NewReader(data))
		st.close()
		if err != nil {
			return dirs, err
		}
	}
	return dirs, nil
}

// What a layer must not have is refused, by the entry's name, in one line.
func TestHostileLayers(t *testing.T) {
	needRoot(t)
	long := strings.Repeat("n", 256)
	small := defaultLimits
	small.Bytes, small.Entries, small.Path = 1000, 10, 300
	many := make([]ent, 11)
	for i := range many {
		many[i] = file(fmt.Sprint("f", i), "")
	}
	for _, c := range []struct {
		name string
		tar  []byte
		want string
	}{
		{"climb", tarOf(t, file("a/../../evil", "x")), `entry "a/../../evil": its name has ".."`},
		{"climb in the middle", tarOf(t, file("a/../b", "x")), `its name has ".."`},
		{"climbing folder", rawTar("../evil", '5'), `entry "../evil": its name has ".."`},
		{"hardlink out", tarOf(t, hard("h", "../../etc/passwd")), `entry "h": its hardlink's target "../../etc/passwd"`},
		{"absolute hardlink", tarOf(t, hard("h", "/etc/passwd")), `entry "h": its hardlink's target "/etc/passwd": no such file`},
		{"hardlink through a link", tarOf(t, link("l", "/etc"), hard("h", "l/passwd")), `entry "h": its hardlink's target "l/passwd": no such file`},
		{"hardlink to a folder", tarOf(t, dir("d", 0o755), hard("h", "d")), `entry "h": its hardlink's target "d": is a directory`},
		{"hardlink to the root", tarOf(t, hard("h", "/")), `entry "h": its hardlink's target "/" is no file's name`},
		{"links in a circle", tarOf(t, link("a", "b"), link("b", "a"), file("a/x", "")), `entry "a/x": cannot make its folder: too many levels of symbolic links`},
		{"below a file", tarOf(t, file("f", ""), file("f/x", "")), `entry "f/x": cannot make its folder: f is no folder`},
		{"disk", tarOf(t, dev("disk", tar.TypeBlock, 8, 0)), `entry "disk": device 8:0 outside /dev is refused`},
		{"mem", tarOf(t, dev("x/mem", tar.TypeChar, 1, 1)), `entry "x/mem": device 1:1 outside /dev is refused`},
		{"whiteout of overlayfs", tarOf(t, dev("dev/w", tar.TypeChar, 0, 0)), `entry "dev/w": character device 0:0 is a whiteout`},
		{"trusted attribute", tarOf(t, dir("d", 0o755).xattr("trusted.overlay.opaque", "y")), `entry "d": attribute "trusted.overlay.opaque" is overlayfs's own`},
		{"redirect", tarOf(t, dir("d", 0o755).xattr("user.overlay.redirect", "/etc")), `entry "d": attribute "user.overlay.redirect" is overlayfs's own`},
		{"whiteout of the parent", tarOf(t, file(".wh...", "")), `entry ".wh...": whiteout of ".."`},
		{"whiteout of itself", tarOf(t, file("a/.wh..", "")), `entry "a/.wh..": whiteout of "."`},
		{"whiteout of nothing", tarOf(t, file(".wh.", "")), `entry ".wh.": whiteout of ""`},
		{"below a whiteout", tarOf(t, file(".wh.a/b", "")), `entry ".wh.a/b": cannot make its folder: ".wh.a" is the name of a whiteout`},
		{"the root a file", tarOf(t, file(".", "")), `it would replace the root`},
		{"the root a link", tarOf(t, link(".", "/etc")), `entry ".": it would replace the root`},
		{"too large", tarOf(t, file("a", strings.Repeat("x", 600)), file("b", strings.Repeat("x", 600))), `entry "b": with its 600 bytes the layer has more than 1000`},
		{"too many", tarOf(t, many...), `entry "f10": there are more than 10 entries`},
		{"long name", tarOf(t, file(strings.Repeat("d/", 200)+"x", "")), `its name has 401 bytes, more than 300`},
		{"long part", tarOf(t, file(long, "")), `its name has a part of 256 bytes`},
		{"empty link", rawTar("l", '2'), `entry "l": its link's target has 0 bytes`},
		{"unknown type", rawTar("v", 'V'), `entry "v": type 'V' is unknown`},
		{"owner", tarOf(t, file("f", "").owned(1<<33, 0, 0o644)), `entry "f": its owner 8589934592:0 is out of range`},
		{"cut off", tarOf(t, file("f", "0123456789"))[:515], `entry "f": cannot read its content: unexpected EOF`},
		{"sparse bomb", sparseBomb(t), `entry "bomb": with its 1099511627776 bytes the layer has more than 1000`},
		{"no tar", []byte(strings.Repeat("no tar ", 100)), "cannot read the tar after 0 entries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := t.TempDir()
			_, err := unpackInto(t, top, small, c.tar)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%v\nwant: %s", err, c.want)
			}
			if others, _ := filepath.Glob(top + "/*"); len(others) != 1 {
				t.Fatalf("outside the layer: %v", others)
			}
		})
	}
}

// sparseBomb is a file of a TiB in a tar of 2 KiB (GNU format, one hole).
func sparseBomb(t *testing.T) []byte {
	t.Helper()
	b := rawTar("bomb", 'S')
	copy(b[257:], "ustar  \x00")
	// struct sparse {offset, numbytes} x 4, isextended, realsize
	copy(b[386:], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00") // one entry: at 1 TiB
	copy(b[398:], "00000000000\x00")                                  // of no bytes
	copy(b[483:], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00") // 1 TiB
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// Links lead nowhere but into the root, absolute names and ".." in targets included.
func TestLinksStayInside(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	out := filepath.Join(top, "outside")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	dirs, err := unpackInto(t, top, defaultLimits, tarOf(t,
		link("abs", out), file("abs/a", "1"),
		link("rel", up+out[1:]), file("rel/b", "2"),
		link("self", "self2/."), dir("self2", 0o755), file("self/c", "3"),
		link("passwd", filepath.Join(out, "passwd")), file("passwd", "not through the link"),
		file("/absolute", "4"),
		dir("d", 0o755), link("d", out), file("d/e", "5"),
		link("f", out), dir("f", 0o755), file("f/g", "6"),
		hard("h", "abs/a"),
		dir("deep", 0o755), link("deep/top", "/top"), file("deep/top/i", "7"), link("deep/side", "../side"), file("deep/side/j", "8"),
	))
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(out); len(left) > 0 {
		t.Fatalf("outside: %v", left)
	}
	got := tree(t, dirs[0])
	for name, want := range map[string]string{out[1:] + "/a": `"1" = h`, out[1:] + "/b": `"2"`, "self2/c": `"3"`, "absolute": `"4"`, out[1:] + "/e": `"5"`, "f/g": `"6"`, "top/i": `"7"`, "side/j": `"8"`, "passwd": `"not through the link"`, "h": `"1"`} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s: %q, want %s", name, got[name], want)
		}
	}
}

// the layers of the image that most tests use: three, that show all that layers do.
func demoLayers(t testing.TB) [][]byte {
	big := strings.Repeat("\x00", 1<<20) + "end"
	return [][]byte{
		tarOf(t,
			dir("./", 0o755), dir("tmp", 0o1777), dir("etc", 0o755), dir("usr/", 0o755), dir("usr/lib", 0o750).owned(0, 7, 0o750).xattr("user.note", "hi"),
			link("lib", "usr/lib"), file("usr/lib/old", "old"), file("usr/lib/kept", "kept"),
			file("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\n"),
			file("etc/group", "root:x:0:\nwww:x:34:\nextra:x:50:web,other\n"),
			file("bin/su", "su").owned(0, 0, 0o4755), file("bin/ping", "ping").owned(0, 0, 0o755).xattr("security.capability", capNetRaw),
			file("srv/a", "a").owned(33, 34, 0o640), file("srv/b", "b"), hard("srv/b2", "srv/b"), dir("opq", 0o755), file("opq/gone", "x"), file("opq/deep/gone", "x"),
			file("wasfile", "x"), dir("wasdir", 0o755), file("wasdir/x", "x"), file("again/x", "x"), file("back/x", "x"), file("sparse", big), file("hole", big[:10000]),
			dev("dev/null", tar.TypeChar, 1, 3), dev("dev/sda", tar.TypeBlock, 8, 0), dev("fifo", tar.TypeFifo, 0, 0),
			file("twice", "first"), file("twice", "second"), file("var/run/x", "x"),
		),
		tarOf(t,
			file("lib/.wh.old", ""), file("lib/new", "new"), file("tmp/t", "t"), file("srv/.wh.a", ""), hard("srv/c", "srv/b"),
			file("opq/here", "y"), file("opq/.wh..wh..opq", ""), dir("wasfile", 0o700), file("wasfile/in", "z"), file("wasdir", "now"),
			file(".wh.again", ""), file("again/y", "y"), file("back/y", "y"), file(".wh.back", ""), file(".wh.never", ""), file(".wh..wh.plnk", ""),
		),
		tarOf(t, file("etc/hostname", "h"), file(".wh.wasdir", ""), link("srv/l", "/etc/passwd"), dir("opq/late", 0o555)),
	}
}

// The overlay of the layers is what the layers mean, and a copy is the same.
func TestLayersTogether(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	img := get(t, s, writeLayout(t, imageOf(t, demoLayers(t)...)))
	r := root(t, s, img, "c1", RootOptions{Writable: true})
	if len(r.Lower) != 3 || r.Upper == "" || r.Work == "" || r.Path != "" {
		t.Fatalf("%+v", r)
	}
	got := tree(t, overlay(t, r))
	const mtime = "1700000000"
	want := map[string]string{
		".": "040755 0:0 " + mtime, "tmp": "041777 0:0 " + mtime, "tmp/t": `0100644 0:0 ` + mtime + ` "t"`,
		"lib": "0120777 0:0 " + mtime + " -> usr/lib", "usr/lib": "040750 0:7 " + mtime + ` user.note="hi"`,
		"usr/lib/new": `0100644 0:0 ` + mtime + ` "new"`, "usr/lib/kept": `0100644 0:0 ` + mtime + ` "kept"`,
		"bin/su": `0104755 0:0 ` + mtime + ` "su"`, "bin/ping": `0100755 0:0 ` + mtime + ` "ping" security.capability=` + fmt.Sprintf("%q", capNetRaw),
		"srv/b": `0100644 0:0 ` + mtime + ` "b"`, "srv/c": `0100644 0:0 ` + mtime + ` "b" = srv/b`,
		"opq": "040755 0:0 " + mtime, "opq/here": `0100644 0:0 ` + mtime + ` "y"`, "opq/late": "040555 0:0 " + mtime,
		"wasfile/in": `0100644 0:0 ` + mtime + ` "z"`, "wasfile": "040700 0:0 " + mtime, "again/y": `0100644 0:0 ` + mtime + ` "y"`, "back/y": `0100644 0:0 ` + mtime + ` "y"`,
		"dev/null": "020600 0:0 " + mtime + " 1:3", "fifo": "010600 0:0 " + mtime, "hole": `0100644 0:0 ` + mtime + fmt.Sprintf(" %q", digestOf(make([]byte, 10000))), "twice": `0100644 0:0 ` + mtime + ` "second"`,
		"srv/l": "0120777 0:0 " + mtime + " -> /etc/passwd", "etc/hostname": `0100644 0:0 ` + mtime + ` "h"`,
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: %s\nwant %s", name, got[name], w)
		}
	}
	for _, name := range []string{"usr/lib/old", "srv/a", "opq/gone", "opq/deep", "wasdir", "wasdir/x", "again/x", "back/x", "never", "dev/sda", ".wh..wh.plnk"} {
		if g, ok := got[name]; ok {
			t.Errorf("%s is there: %s", name, g)
		}
	}
	c := root(t, s, img, "c2", RootOptions{Writable: true, Copy: true})
	if !c.Own || len(c.Lower) > 0 {
		t.Fatalf("%+v", c)
	}
	if d := cmp.Diff(got, tree(t, c.Path)); d != "" {
		t.Errorf("the overlay (-) and the copy (+):\n%s", d)
	}
	var st unix.Stat_t
	for _, p := range []string{filepath.Join(r.Lower[2], "sparse"), filepath.Join(c.Path, "sparse")} {
		if err := unix.Stat(p, &st); err != nil || st.Blocks > 64 || st.Size != 1<<20+3 {
			t.Errorf("%s: %d bytes in %d blocks, %v: its holes are lost", p, st.Size, st.Blocks, err)
		}
	}
	// What is written goes to the container's own layer.
	if err := os.WriteFile(overlay(t, root(t, s, img, "c3", RootOptions{Writable: true}))+"/etc/passwd", []byte("w"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(s.path("roots/c3/upper/etc/passwd")); err != nil || string(data) != "w" {
		t.Errorf("%q, %v", data, err)
	}
	if got := tree(t, overlay(t, root(t, s, img, "c4", RootOptions{}))); !strings.Contains(got["etc/passwd"], "web:x:33") {
		t.Error(got["etc/passwd"])
	}
}

func TestLimitsOfStreams(t *testing.T) {
	s := openStore(t)
	s.Limits = Limits{Bytes: 1 << 20, Entries: 100, Path: maxPath}
	padded := append(tarOf(t, file("bin/x", "x")), make([]byte, 3<<20)...)
	name := filepath.Join(t.TempDir(), "root.tar.gz")
	write(t, name, gzipped(t, padded))
	_, err := s.Get(t.Context(), name, Options{})
	wantErr(t, err, "its tar has more than")
	big := tarOf(t, file("bin/x", strings.Repeat("x", 2<<20)))
	write(t, name, gzipped(t, big))
	_, err = s.Get(t.Context(), name, Options{})
	wantErr(t, err, `entry "bin/x": with its 2097152 bytes the layer has more than 1048576`)
	s.Limits = defaultLimits
	write(t, name, gzipped(t, append(tarOf(t, file("bin/x", "x")), make([]byte, maxTrailer+1)...)))
	_, err = s.Get(t.Context(), name, Options{})
	wantErr(t, err, "its tar has more than 67108864 bytes after its end")
}

func wantErr(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v\nwant: %s", err, want)
	}
}

func write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestUser(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	img := get(t, s, writeLayout(t, imageOf(t, demoLayers(t)...)))
	r := root(t, s, img, "c", RootOptions{Writable: true})
	for spec, want := range map[string]string{
		"": "0:0 [] /root", "web": "33:34 [50] /srv", "33": "33:34 [50] /srv", "web:extra": "33:50 [] /srv", "7": "7:0 [] /", "7:8": "7:8 [] /", "1:www": "1:34 [] /",
	} {
		u, home, err := s.User(r, spec)
		if got := fmt.Sprintf("%d:%d %v %s", u.UID, u.GID, u.AdditionalGids, home); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", spec, got, err, want)
		}
	}
	_, _, err := s.User(r, "nobody")
	wantErr(t, err, `cannot resolve user "nobody" in the root: unable to find user nobody`)
	// A link out of the root is one inside it; what the container wrote counts.
	if err := os.MkdirAll(r.Upper+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/../../../../usr/lib/accounts", r.Upper+"/etc/passwd"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(r.Upper+"/usr/lib", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, r.Upper+"/usr/lib/accounts", []byte("mine:x:9:9::/:\n"))
	if u, _, err := s.User(r, "mine"); err != nil || u.UID != 9 {
		t.Errorf("%+v, %v", u, err)
	}
	os.Remove(r.Upper + "/usr/lib/accounts")
	if err := unix.Mkfifo(r.Upper+"/usr/lib/accounts", 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.User(r, "mine")
	wantErr(t, err, "cannot read /etc/passwd in the root: it is no regular file")
}

func TestVolumes(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	im := imageOf(t, demoLayers(t)...)
	with := func(vs ...string) *Image {
		c, _ := im.ConfigFile()
		c = c.DeepCopy()
		c.Config.Volumes = map[string]struct{}{}
		for _, v := range vs {
			c.Config.Volumes[v] = struct{}{}
		}
		i, err := mutate.ConfigFile(im, c)
		if err != nil {
			t.Fatal(err)
		}
		return get(t, s, writeLayout(t, i))
	}
	r := root(t, s, with("/lib/", "/data"), "v", RootOptions{})
	if len(r.Volumes) != 2 || r.Volumes[0].Destination != "/data" || r.Volumes[1].Destination != "/lib" {
		t.Fatalf("%+v", r.Volumes)
	}
	if got := tree(t, r.Volumes[1].Source); !strings.HasPrefix(got["."], "040750 0:7") || got["kept"] == "" || got["new"] == "" || got["old"] != "" {
		t.Errorf("%v", got)
	}
	if got := tree(t, r.Volumes[0].Source); len(got) != 1 || !strings.HasPrefix(got["."], "040755 0:0") {
		t.Errorf("%v", got)
	}
	for _, bad := range []string{"/", "rel", "/../.."} {
		_, err := s.Root(t.Context(), with(bad), "bad", RootOptions{})
		wantErr(t, err, fmt.Sprintf("config, Volumes: %q is no folder inside the root", bad))
	}
}

// A folder is used as it is, and written only if that was asked for.
func TestFolder(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	d := t.TempDir()
	if err := os.Mkdir(d+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, d+"/bin/x", []byte("x"))
	before := tree(t, d)
	img := get(t, s, d)
	if img.Dir != d || img.Digest != "" {
		t.Fatalf("%+v", img)
	}
	if r := root(t, s, img, "ro", RootOptions{}); r.Path != d || r.Own || r.Writable {
		t.Errorf("%+v", r)
	}
	r := root(t, s, img, "rw", RootOptions{Writable: true})
	write(t, overlay(t, r)+"/bin/y", []byte("y"))
	if c := root(t, s, img, "cp", RootOptions{Writable: true, Copy: true}); c.Path == d {
		t.Errorf("%+v", c)
	} else if diff := cmp.Diff(before, tree(t, c.Path)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, tree(t, d)); diff != "" {
		t.Error(diff)
	}
	if r := root(t, s, img, "in", RootOptions{InPlace: true}); r.Path != d || r.Own || !r.Writable {
		t.Errorf("%+v", r)
	}
	for _, id := range []string{"ro", "rw", "cp", "in"} {
		if err := s.RemoveRoot(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(before, tree(t, d)); diff != "" {
		t.Error(diff)
	}
	_, err := s.Root(t.Context(), img, "../x", RootOptions{})
	wantErr(t, err, `cannot use root id "../x"`)
	wantErr(t, s.RemoveRoot(t.Context(), "none"), "cannot remove root none: there is none")
}

// Where the kernel makes no overlay, a root is a copy.
func TestNoOverlay(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	img := get(t, s, writeLayout(t, imageOf(t, demoLayers(t)...)))
	over := overlay(t, root(t, s, img, "under", RootOptions{Writable: true}))
	// An overlay on an overlay cannot have its upper folder there.
	s2, err := Open(over + "/store")
	if err != nil {
		t.Fatal(err)
	}
	img2 := get(t, s2, writeLayout(t, imageOf(t, tarOf(t, file("bin/x", "x")))))
	if r := root(t, s2, img2, "c", RootOptions{Writable: true}); !r.Own || r.Upper != "" {
		t.Errorf("%+v", r)
	}
}

// ids of a user namespace: copies are shifted, and layers mounted id-mapped show the
// container's root what is root's.
func TestIDMap(t *testing.T) {
	needRoot(t)
	s := openStore(t)
	img := get(t, s, writeLayout(t, imageOf(t, demoLayers(t)...)))
	o := RootOptions{Writable: true, IDMap: shift(100000)}
	r := root(t, s, img, "over", o)
	ns := userns(t, 100000)
	mapped := *r
	mapped.Lower = nil
	for _, l := range r.Lower {
		fd, err := unix.OpenTree(unix.AT_FDCWD, l, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}); err != nil {
			t.Fatal(err)
		}
		mapped.Lower = append(mapped.Lower, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	got := tree(t, overlay(t, &mapped))
	for name, want := range map[string]string{".": "040755 100000:100000", "usr/lib": "040750 100000:100007", "bin/su": "0104755 100000:100000"} {
		if !strings.HasPrefix(got[name], want) {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
	o.Copy = true
	c := root(t, s, img, "copy", o)
	copied := tree(t, c.Path)
	// The capability is the namespace's: revision 3, with its root.
	if want := "security.capability=" + fmt.Sprintf("%q", capNetRaw[:3]+"\x03"+capNetRaw[4:]+"\xa0\x86\x01\x00"); !strings.Contains(copied["bin/ping"], want) {
		t.Errorf("%s, want %s", copied["bin/ping"], want)
	}
	delete(copied, "bin/ping")
	delete(got, "bin/ping")
	if d := cmp.Diff(got, copied); d != "" {
		t.Errorf("id-mapped (-), copied (+):\n%s", d)
	}
	o.IDMap.UIDs[0].Size = 1
	_, err := s.Root(t.Context(), img, "small", RootOptions{Copy: true, IDMap: IDMap{UIDs: o.IDMap.UIDs, GIDs: []idRange{{ContainerID: 0, HostID: 100000, Size: 5}}}})
	wantErr(t, err, "cannot map gid: 7 is in none of the ranges")
}

func userns(t *testing.T, base int) *os.File {
	t.Helper()
	c := exec.Command("sleep", "60")
	m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: 65536}}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: m, GidMappings: m}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Process.Kill()
		c.Wait()
	}()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", c.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A user without root's rights unpacks, and mounts in a user namespace.
func TestRootless(t *testing.T) {
	needRoot(t)
	d, err := os.MkdirTemp("", "images-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(d)
	layout := filepath.Join(d, "layout.tar")
	write(t, layout, layoutTar(t, imageOf(t, demoLayers(t)...)))
	const nobody = 65534
	store := filepath.Join(d, "store")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{d, store} {
		if err := os.Chown(p, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	c := helper("rootless", store, layout)
	m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: m, GidMappings: m, Credential: &syscall.Credential{NoSetGroups: true}}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got map[string]string
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got["usr/lib/old"] != "" || got["opq/gone"] != "" || !strings.HasPrefix(got["usr/lib/new"], "0100644 0:0") || !strings.HasPrefix(got["opq/here"], "0100644 0:0") || !strings.HasPrefix(got["usr/lib"], "040750 0:0") {
		t.Errorf("%v", got)
	}
}

func helperRootless() error {
	s, err := Open(os.Args[1])
	if err != nil {
		return err
	}
	img, err := s.Get(context.Background(), os.Args[2], Options{})
	if err != nil {
		return err
	}
	r, err := s.Root(context.Background(), img, "c", RootOptions{Writable: true})
	if err != nil {
		return err
	}
	if !r.UserXattr {
		return fmt.Errorf("%+v", r)
	}
	fd, err := mountOverlay(r)
	if err != nil {
		return err
	}
	t := &testing.T{} // for tree, whose failure is a panic here
	got := tree(t, fmt.Sprintf("/proc/self/fd/%d", fd))
	unix.Close(fd)
	if err := s.RemoveRoot(context.Background(), "c"); err != nil {
		return err
	}
	if err := s.Remove(context.Background(), img.Digest); err != nil {
		return err
	}
	if p, err := s.Prune(context.Background()); err != nil || p.Layers != 3 {
		return fmt.Errorf("%+v, %v", p, err)
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}
