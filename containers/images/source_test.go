package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/runtime-spec/specs-go"
)

type idRange = specs.LinuxIDMapping

func shift(base uint32) IDMap {
	return IDMap{UIDs: []idRange{{ContainerID: 0, HostID: base, Size: 65536}}, GIDs: []idRange{{ContainerID: 0, HostID: base, Size: 65536}}}
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// writeLayout writes images as an OCI image layout, and gives its folder.
func writeLayout(t testing.TB, images ...v1.Image) string {
	t.Helper()
	d := t.TempDir()
	p, err := layout.Write(d, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for i, img := range images {
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{refNameAnnotation: fmt.Sprint("v", i+1)}), layout.WithPlatform(v1.Platform{OS: c.OS, Architecture: c.Architecture})); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func layoutTar(t testing.TB, images ...v1.Image) []byte {
	t.Helper()
	return tarOfDir(t, writeLayout(t, images...))
}

func tarOfDir(t testing.TB, d string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(d)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dockerTar(t testing.TB, tags map[string]v1.Image) []byte {
	t.Helper()
	m := map[name.Tag]v1.Image{}
	for n, img := range tags {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		m[tag] = img
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(m, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// One image in all forms is one image.
func TestForms(t *testing.T) {
	needRoot(t)
	img := imageOf(t, demoLayers(t)...)
	d := t.TempDir()
	at := func(name string, data []byte) string {
		write(t, filepath.Join(d, name), data)
		return filepath.Join(d, name)
	}
	lt, dt := layoutTar(t, img), dockerTar(t, map[string]v1.Image{"example.org/app:1": img})
	srv := httptest.NewServer(registry.New(registry.Logger(discard(t))))
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/app:1"
	push(t, ref, img)
	var first *Image
	for _, ref := range []string{
		writeLayout(t, img), writeLayout(t, img) + ":v1", at("l.tar", lt), at("l.tgz", gzipped(t, lt)), at("l.zst", zstded(t, lt)),
		at("d.tar", dt), at("d.tgz", gzipped(t, dt)), filepath.Join(d, "d.tar:example.org/app:1"), filepath.Join(d, "d.tar:1"), ref,
	} {
		s := openStore(t)
		got := get(t, s, ref)
		if first == nil {
			first = got
		}
		if d := cmp.Diff(first.Layers, got.Layers); d != "" || len(got.Layers) != 3 {
			t.Errorf("%s: %s", ref, d)
		}
		want, _ := img.ConfigFile()
		if d := cmp.Diff(want.Config, got.Config); d != "" {
			t.Errorf("%s: %s", ref, d)
		}
		digest, _ := img.Digest()
		if strings.Contains(ref, "/d.t") {
			digest, _ = img.ConfigName()
		}
		if got.Digest != digest.String() {
			t.Errorf("%s: %s, want %s", ref, got.Digest, digest)
		}
		again := get(t, s, ref)
		if d := cmp.Diff(got, again); d != "" {
			t.Errorf("%s, again: %s", ref, d)
		}
		if list, err := s.List(t.Context()); err != nil || len(list) != 1 || list[0].Ref != got.Ref {
			t.Errorf("%s: %+v, %v", ref, list, err)
		}
	}
	rootTar := demoLayers(t)[0]
	for _, ref := range []string{at("r.tar", rootTar), at("r.tgz", gzipped(t, rootTar)), at("r.zst", zstded(t, rootTar))} {
		s := openStore(t)
		got := get(t, s, ref)
		if got.Digest != digestOf(rootTar) || len(got.Layers) != 1 || got.Layers[0] != got.Digest {
			t.Errorf("%s: %+v", ref, got)
		}
		if r := root(t, s, got, "c", RootOptions{}); tree(t, r.Path)["usr/lib/kept"] == "" {
			t.Errorf("%s: %+v", ref, r)
		}
		// The file is looked at again when it is another.
		write(t, ref, tarOf(t, file("bin/other", "x")))
		if other := get(t, s, ref); other.Digest == got.Digest {
			t.Errorf("%s: the file has changed, the image not", ref)
		}
	}
}

func TestSourceErrors(t *testing.T) {
	needRoot(t)
	d := t.TempDir()
	t.Chdir(d)
	img := imageOf(t, demoLayers(t)[0])
	other := imageOf(t, tarOf(t, file("bin/o", "o")))
	arm, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	arm = arm.DeepCopy()
	arm.Architecture = "riscv64"
	foreign, err := mutate.ConfigFile(img, arm)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, data []byte) string {
		write(t, filepath.Join(d, name), data)
		return name
	}
	layoutWith := func(f func(dir string)) string {
		l := writeLayout(t, img)
		f(l)
		return l
	}
	blob := func(l string, h v1.Hash) string { return filepath.Join(l, "blobs/sha256", h.Hex) }
	m, _ := img.Manifest()
	digest, _ := img.Digest()
	flip := func(p string) {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		write(t, p, data)
	}
	if err := os.Mkdir("empty", 0o755); err != nil {
		t.Fatal(err)
	}
	badDiff := func() string {
		c, _ := img.ConfigFile()
		c = c.DeepCopy()
		c.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64)
		raw, _ := json.Marshal(c)
		man := m.DeepCopy()
		man.Config.Digest, man.Config.Size, _ = v1.SHA256(bytes.NewReader(raw))
		rawM, _ := json.Marshal(man)
		h, n, _ := v1.SHA256(bytes.NewReader(rawM))
		rawI, _ := json.Marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{MediaType: man.MediaType, Digest: h, Size: n}}})
		return layoutWith(func(l string) {
			write(t, blob(l, man.Config.Digest), raw)
			write(t, blob(l, h), rawM)
			write(t, filepath.Join(l, "index.json"), rawI)
		})
	}
	gz := gzipped(t, demoLayers(t)[0])
	for _, c := range []struct{ name, ref, want string }{
		{"nothing", "./nothing", "cannot get image ./nothing: stat " + d + "/nothing: no such file"},
		{"no reference", "No Reference!", "no file or folder is there, and it is no registry's reference"},
		{"empty folder", "empty", "the folder is empty; looked for index.json (an OCI image layout), manifest.json (of docker save)"},
		{"fifo", "/dev/null", "/dev/null is no folder and no regular file"},
		{"text", at("text", []byte(strings.Repeat("text", 500))), "as a tar: archive/tar: invalid tar header"},
		{"xz", at("xz", []byte("\xfd7zXZ\x00abc")), "compressed with bzip2 or xz"},
		{"a layout without index", at("half.tar", tarOf(t, file("oci-layout", "{}"))), "it has oci-layout, but no index.json"},
		{"neither", at("neither.tar", tarOf(t, file("repositories", "{}"))), "the tar has none of what images have; looked for"},
		{"json", at("json.tar", tarOf(t, file("index.json", "{"))), "index.json: unexpected EOF"},
		{"docker json", at("djson.tar", tarOf(t, file("manifest.json", `[{"Config":"../x"}]`))), `manifest.json: "../x" is no name of a file in it`},
		{"docker tags", at("tags.tar", dockerTar(t, map[string]v1.Image{"a:1": img, "b:2": other})), "manifest.json has 2 images: choose one with :NAME after the path, of "},
		{"docker tag", at("tag.tar", dockerTar(t, map[string]v1.Image{"a:1": img})) + ":9", "manifest.json has no image 9: it has a:1"},
		{"tags", writeLayout(t, img, other), "index.json has several images: choose one with :TAG or @DIGEST after the path, of v1, v2"},
		{"tag", writeLayout(t, img) + ":v9", "index.json has no image v9 for linux/"},
		{"platform", writeLayout(t, foreign), "index.json has no image for linux/"},
		{"docker platform", at("arm.tar", dockerTar(t, map[string]v1.Image{"a:1": foreign})), "it is for platform linux/riscv64, wanted is linux/"},
		{"manifest", layoutWith(func(l string) { flip(blob(l, digest)) }), "blobs/sha256/" + digest.Hex + " has digest sha256:"},
		{"config", layoutWith(func(l string) { flip(blob(l, m.Config.Digest)) }), "manifest " + digest.String() + ", config: blobs/sha256/"},
		{"layer", layoutWith(func(l string) { flip(blob(l, m.Layers[0].Digest)) }), "layer 1 of 1: its blob has "},
		{"longer layer", layoutWith(func(l string) {
			p := blob(l, m.Layers[0].Digest)
			data, _ := os.ReadFile(p)
			write(t, p, append(data, 0))
		}), "layer 1 of 1: its blob has "},
		{"layer gone", layoutWith(func(l string) { os.Remove(blob(l, m.Layers[0].Digest)) }), "no such file"},
		{"diffID", badDiff(), "layer 1 of 1: its tar has digest " + digestOf(demoLayers(t)[0]) + ", the config says sha256:000"},
		{"cut off", at("cut.tgz", gz[:len(gz)-20]), "unexpected EOF"},
		{"cut off trailer", at("cut2.tgz", gz[:len(gz)-2]), "unexpected EOF"},
		{"tag of a root", at("root.tar", demoLayers(t)[0]) + ":1", "is the tar of a root file system, which has no image 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t)
			_, err := s.Get(t.Context(), c.ref, Options{})
			wantErr(t, err, c.want)
			for _, d := range []string{"tmp", "layers", "images", "refs"} {
				if left, _ := os.ReadDir(s.path(d)); len(left) > 0 {
					t.Errorf("left behind: %s/%v", d, left)
				}
			}
		})
	}
	// Another platform is got when it is named.
	s := openStore(t)
	if got, err := s.Get(t.Context(), writeLayout(t, img, foreign), Options{Platform: "linux/riscv64"}); err != nil || got.Platform != "linux/riscv64" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = s.Get(t.Context(), ".", Options{Platform: "riscv64"})
	wantErr(t, err, `platform "riscv64": want OS/ARCH`)
	_, err = s.Get(t.Context(), ".", Options{Pull: "often"})
	wantErr(t, err, `pull policy "often": want missing, always or never`)
}

func push(t testing.TB, ref string, img v1.Image, o ...remote.Option) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img, o...); err != nil {
		t.Fatal(err)
	}
}

// When a registry is asked, and with whose credentials.
func TestRegistry(t *testing.T) {
	needRoot(t)
	asked := 0
	reg := registry.New(registry.Logger(discard(t)))
	want := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want != "" && r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.Contains(r.URL.Path, "/manifests/") {
			asked++
		}
		reg.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref := host + "/team/app:1"
	one, two := imageOf(t, demoLayers(t)...), imageOf(t, demoLayers(t)[:2]...)
	push(t, ref, one)
	s := openStore(t)
	pull := func(p Policy) (*Image, error) {
		asked = 0
		return s.Get(t.Context(), ref, Options{Pull: p})
	}
	_, err := pull(PullNever)
	wantErr(t, err, "the policy is not to ask the registry: there is none")
	if !errors.Is(err, ErrNotFound) || asked != 0 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	first, err := pull("")
	if err != nil || len(first.Layers) != 3 || asked == 0 {
		t.Fatalf("%+v, %v, asked %d times", first, err, asked)
	}
	push(t, ref, two)
	if again, err := pull(PullMissing); err != nil || again.Digest != first.Digest || asked != 0 {
		t.Errorf("%+v, %v, asked %d times", again, err, asked)
	}
	second, err := pull(PullAlways)
	if err != nil || len(second.Layers) != 2 || asked == 0 {
		t.Errorf("%+v, %v, asked %d times", second, err, asked)
	}
	if never, err := pull(PullNever); err != nil || never.Digest != second.Digest || asked != 0 {
		t.Errorf("%+v, %v, asked %d times", never, err, asked)
	}
	if byDigest, err := s.Get(t.Context(), host+"/team/app@"+first.Digest, Options{}); err != nil || byDigest.Digest != first.Digest {
		t.Errorf("%+v, %v", byDigest, err)
	}
	// With a password that docker login left.
	want = "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
	_, err = pull(PullAlways)
	wantErr(t, err, "no file or folder is there, and from the registry: ")
	cfg := t.TempDir()
	write(t, cfg+"/config.json", fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, host, strings.TrimPrefix(want, "Basic ")))
	t.Setenv("DOCKER_CONFIG", cfg)
	if img, err := pull(PullAlways); err != nil || img.Digest != second.Digest {
		t.Errorf("%+v, %v", img, err)
	}
	want = ""
	// An index: the image of the platform.
	c, _ := one.ConfigFile()
	c = c.DeepCopy()
	c.Architecture = "riscv64"
	riscv, err := mutate.ConfigFile(one, c)
	if err != nil {
		t.Fatal(err)
	}
	own, _ := wantedPlatform("")
	idx := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: riscv, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "riscv64"}}},
		mutate.IndexAddendum{Add: two, Descriptor: v1.Descriptor{Platform: own}})
	r, _ := name.ParseReference(host + "/multi")
	if err := remote.WriteIndex(r, idx); err != nil {
		t.Fatal(err)
	}
	if img, err := s.Get(t.Context(), host+"/multi", Options{}); err != nil || img.Platform != own.String() {
		t.Errorf("%+v, %v", img, err)
	}
	if img, err := s.Get(t.Context(), host+"/multi", Options{Platform: "linux/riscv64"}); err != nil || img.Platform != "linux/riscv64" {
		t.Errorf("%+v, %v", img, err)
	}
	_, err = s.Get(t.Context(), host+"/multi", Options{Platform: "linux/s390x"})
	wantErr(t, err, "linux/s390x")
	// Closed: a pull that is stopped ends.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, host+"/other", Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A registry that sends other layers than it says is not believed.
func TestLyingRegistry(t *testing.T) {
	img := imageOf(t, demoLayers(t)[1])
	m, _ := img.Manifest()
	flush := false
	reg := registry.New(registry.Logger(discard(t)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, m.Layers[0].Digest.String()) {
			if flush {
				w.(http.Flusher).Flush() // then there is no Content-Length
			}
			w.Write(gzipped(t, tarOf(t, file("bin/evil", "x")))) //nolint:errcheck // the client tells
			return
		}
		reg.ServeHTTP(w, r)
	}))
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/app"
	push(t, ref, img)
	s := openStore(t)
	_, err := s.Get(t.Context(), ref, Options{})
	wantErr(t, err, "layer 1 of 1: cannot fetch "+m.Layers[0].Digest.String())
	flush = true
	_, err = s.Get(t.Context(), ref, Options{})
	wantErr(t, err, "layer 1 of 1: cannot fetch "+m.Layers[0].Digest.String())
	if left, _ := os.ReadDir(s.path("layers")); len(left) > 0 {
		t.Error(left)
	}
}

type noTrip struct{ t *testing.T }

func (n noTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Request: r}, nil
}

func TestPlainHTTP(t *testing.T) {
	for _, c := range []struct {
		registry, url string
		ok            bool
	}{
		{"127.0.0.1:5000", "http://127.0.0.1:5000/v2/", true}, {"[::1]:5000", "http://[::1]:5000/v2/", true}, {"localhost:5000", "http://localhost:5000/v2/", true},
		{"10.0.0.1:5000", "http://10.0.0.1:5000/v2/", false}, {"registry.local", "http://registry.local/v2/", false}, {"localhost.evil.org", "http://localhost.evil.org/", false},
		{"registry.org", "http://127.0.0.1/v2/", false}, {"127.0.0.1:5000", "http://192.168.0.1/v2/", false}, {"registry.org", "https://registry.org/v2/", true},
	} {
		r := httptest.NewRequest(http.MethodGet, c.url, nil)
		_, err := (&loopbackHTTP{noTrip{t}, isLoopback(c.registry)}).RoundTrip(r)
		if (err == nil) != c.ok {
			t.Errorf("%s, %s: %v", c.registry, c.url, err)
		}
	}
	s := openStore(t)
	_, err := s.Get(t.Context(), "192.168.255.254:1/app", Options{})
	wantErr(t, err, "plain http to 192.168.255.254:1 is refused")
}

// FuzzFiles feeds indexes, manifests and configs to what reads image layouts.
func FuzzFiles(f *testing.F) {
	l := os.DirFS(writeLayout(f, imageOf(f, demoLayers(f)[1])))
	index, err := fs.ReadFile(l, "index.json")
	if err != nil {
		f.Fatal(err)
	}
	raw, _ := imageOf(f, demoLayers(f)[1]).RawManifest()
	cfg, _ := imageOf(f, demoLayers(f)[1]).RawConfigFile()
	f.Add(index, raw, cfg, "v1")
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:00","size":-1}]}`), []byte(`{}`), []byte(`{}`), "")
	f.Add([]byte(nil), []byte(`[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar","../x"]}]`), []byte(`{"rootfs":{"diff_ids":["x"]}}`), "a:1")
	want, _ := wantedPlatform("linux/amd64")
	f.Fuzz(func(t *testing.T, index, manifest, config []byte, selector string) {
		files := fstest.MapFS{"manifest.json": {Data: manifest}, "c.json": {Data: config}, "l.tar": {}}
		if len(index) > 0 {
			files["index.json"] = &fstest.MapFile{Data: index}
		}
		for _, data := range [][]byte{index, manifest, config} {
			files["blobs/sha256/"+bare(digestOf(data))] = &fstest.MapFile{Data: data}
		}
		src, err := fromFiles(files, selector, want)
		if err != nil || src == nil {
			return
		}
		if !digestPattern().MatchString(src.digest) || len(src.blobs) == 0 || len(src.blobs) != len(src.config.RootFS.DiffIDs) {
			t.Errorf("%+v", src)
		}
	})
}
