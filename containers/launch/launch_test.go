package launch

import (
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/powerd/powerd/containers/network"
	"github.com/powerd/powerd/containers/oci"
)

// launcher has a folder of its own, and an image that is a folder.
func launcher(t *testing.T) (*Launcher, string) {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "debian")
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n",
		"etc/group":  "root:x:0:\nweb:x:44:\nadm:x:4:web\n",
		"bin/sh":     "",
	} {
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return &Launcher{Dir: filepath.Join(dir, "lib"), Engine: oci.Engine{Root: filepath.Join(dir, "run")}}, root
}

// prepared is the config that Prepare writes.
func prepared(t *testing.T, l *Launcher, r Request) (*Container, *specs.Spec) {
	t.Helper()
	c, err := l.Prepare(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(l.dir(c.Name), "config.json"))
	s := &specs.Spec{}
	if err == nil {
		err = json.Unmarshal(data, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestPrepare(t *testing.T) {
	l, root := launcher(t)
	c, s := prepared(t, l, Request{Image: root, Name: "a", Args: []string{"sh", "-c", "true"}, Network: None, User: "web", Env: []string{"A=1", "PATH=/bin"}, CPUs: 0.5, CPUWeight: 7,
		Memory: 1 << 20, ReadOnly: true, Annotations: map[string]string{oci.AnnotationClass: "batch"}, Sysctls: []string{"net.ipv4.ip_forward=1"}, Volumes: []string{root + ":/data:ro"}, Tmpfs: []string{"/run:size=1m"}})
	if c.Status != specs.StateCreating || !slices.Equal(c.Args, []string{"sh", "-c", "true"}) || c.Hostname != "a" {
		t.Errorf("%+v", c)
	}
	p := s.Process
	if u := p.User; u.UID != 33 || u.GID != 44 || !slices.Contains(u.AdditionalGids, 4) {
		t.Errorf("user web is %+v", u)
	}
	if len(p.Capabilities.Effective) > 0 || !slices.Contains(p.Capabilities.Bounding, "CAP_CHOWN") || !p.NoNewPrivileges {
		t.Errorf("an ordinary user has %+v", p.Capabilities)
	}
	if !slices.Contains(p.Env, "A=1") || !slices.Contains(p.Env, "PATH=/bin") || !slices.Contains(p.Env, "HOME=/srv") {
		t.Errorf("env %q", p.Env)
	}
	r := s.Linux.Resources
	if *r.CPU.Quota != 50000 || *r.CPU.Period != 100000 || r.Unified["cpu.weight"] != "7" || *r.Memory.Limit != 1<<20 || *r.Pids.Limit != defaultPids {
		t.Errorf("limits %+v %+v", r, r.CPU)
	}
	if !s.Root.Readonly || s.Linux.CgroupsPath != "/powerd/a" || s.Annotations[oci.AnnotationClass] != "batch" || s.Linux.Sysctl["net.ipv4.ip_forward"] != "1" {
		t.Errorf("%+v %+v", s.Root, s.Linux)
	}
	mounts := map[string]specs.Mount{}
	for _, m := range s.Mounts {
		mounts[m.Destination] = m
	}
	if m := mounts["/data"]; m.Source != root || !slices.Equal(m.Options, []string{"rbind", "rprivate", "ro"}) {
		t.Errorf("volume %+v", m)
	}
	if m := mounts["/run"]; m.Type != "tmpfs" || !slices.Contains(m.Options, "size=1m") {
		t.Errorf("tmpfs %+v", m)
	}
	if text, err := os.ReadFile(mounts["/etc/hostname"].Source); string(text) != "a\n" {
		t.Errorf("hostname %q, %v", text, err)
	}
	if _, ok := mounts["/etc/resolv.conf"]; ok {
		t.Error("without a network it has resolvers")
	}

	found, err := l.Find("a")
	if err != nil || found.Status != specs.StateStopped || found.ExitCode != nil || found.Image != c.Image {
		t.Errorf("%+v, %v", found, err)
	}
	if err := l.ended(c, 128+9); err != nil {
		t.Fatal(err)
	}
	if found, err = l.Find("a"); err != nil || found.ExitCode == nil || *found.ExitCode != 137 {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := l.Prepare(t.Context(), Request{Image: root, Name: "a", Args: []string{"sh"}, Network: None}); err == nil || !strings.Contains(err.Error(), "there is one of that name") {
		t.Errorf("a second of the name: %v", err)
	}
	prepared(t, l, Request{Image: root, Name: "b", Args: []string{"sh"}, Network: Host})
	all, err := l.List()
	if err != nil || len(all) != 2 || all[0].Name != "b" { // the newest first
		t.Errorf("%+v, %v", all, err)
	}
	for _, name := range []string{"a", "b"} {
		if err := l.Remove(t.Context(), name, false); err != nil {
			t.Error(err)
		}
	}
	if _, err := l.Find("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	empty(t, l)
}

// empty fails if a container has left anything.
func empty(t *testing.T, l *Launcher) {
	t.Helper()
	if entries, _ := os.ReadDir(filepath.Join(l.Dir, "containers")); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
	store, err := l.Images()
	if err != nil {
		t.Fatal(err)
	}
	if roots, err := store.Roots(); err != nil || len(roots) > 0 {
		t.Errorf("left behind: %v, %v", roots, err)
	}
}

func TestNetworks(t *testing.T) {
	l, root := launcher(t)
	_, s := prepared(t, l, Request{Image: root, Name: "host", Args: []string{"sh"}, Network: Host, UserNS: &specs.LinuxIDMapping{HostID: uint32(os.Getuid()), Size: 1}})
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			t.Error("on the host's network it has its own")
		}
	}
	if !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys" && m.Type == "bind" }) {
		t.Error("in a user namespace on the host's network it mounts sysfs")
	}
	_, s = prepared(t, l, Request{Image: root, Name: "bridge", Args: []string{"sh"}, Network: Bridge, DNS: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	at := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/etc/resolv.conf" })
	if at < 0 {
		t.Fatal("on a bridge it has no resolvers")
	}
	if text, err := os.ReadFile(s.Mounts[at].Source); err != nil || !strings.Contains(string(text), "nameserver 192.0.2.1") {
		t.Errorf("resolvers %q, %v", text, err)
	}
}

// What cannot be is refused by a line that names it, and nothing of the container stays.
func TestRefused(t *testing.T) {
	l, root := launcher(t)
	port, err := network.ParsePorts("8080:80")
	if err != nil {
		t.Fatal(err)
	}
	for want, r := range map[string]Request{
		"no image is given":             {},
		`network "vpn"`:                 {Network: "vpn"},
		"cannot publish port":           {Network: None, Publish: port},
		"limit to -1 cpus":              {CPUs: -1},
		"takes 0.01 at least":           {CPUs: 0.001},
		"cpu weight 20000":              {CPUWeight: 20000},
		`cannot use the name "../x"`:    {Name: "../x"},
		"cannot add nonesuch":           {CapAdd: []string{"nonesuch"}},
		"cannot drop nonesuch":          {CapDrop: []string{"nonesuch"}},
		`ulimit "nofile"`:               {Ulimits: []string{"nofile"}},
		`there is no limit "RLIMIT_X"`:  {Ulimits: []string{"x=1"}},
		`sysctl "a"`:                    {Sysctls: []string{"a"}},
		"kernel.panic is not of a":      {Sysctls: []string{"kernel.panic=1"}},
		`volume "/a"`:                   {Volumes: []string{"/a"}},
		"/nonesuch":                     {Volumes: []string{"/nonesuch:/x"}},
		`a tmpfs on "x"`:                {Tmpfs: []string{"x"}},
		"cannot use device /etc: it":    {Devices: []string{"/etc"}},
		"it says no command":            {Args: []string{}},
		"nobody42":                      {User: "nobody42"},
		"annotations[powerd.slowdown]":  {Annotations: map[string]string{oci.AnnotationSlowdown: "fast"}},
		"process.cwd: want an absolute": {Cwd: "x"},
		"seccomp is broken":             {Seccomp: func(*specs.Spec) (*specs.LinuxSeccomp, error) { return nil, errors.New("seccomp is broken") }},
		"/nonesuch/image":               {Image: "/nonesuch/image"},
	} {
		if r.Image == "" && want != "no image is given" {
			r.Image = root
		}
		if r.Network == "" {
			r.Network = None
		}
		if r.Args == nil {
			r.Args = []string{"sh"}
		}
		_, err := l.Prepare(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want %q: %v", want, err)
		}
	}
	empty(t, l)
	for _, name := range []string{"", ".", "..", "-x", "a/b", "nonesuch"} {
		if _, err := l.Find(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct{ add, drop, want []string }{
		{nil, nil, defaultCaps},
		{nil, []string{"all"}, nil},
		{[]string{"net_admin"}, []string{"ALL"}, []string{"CAP_NET_ADMIN"}},
		{[]string{"CAP_CHOWN"}, []string{"ALL"}, []string{"CAP_CHOWN"}},
		{[]string{"all"}, []string{"chown"}, oci.Capabilities()},
	} {
		got, err := Capabilities(tt.add, tt.drop)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("add %v, drop %v: %v, %v", tt.add, tt.drop, got, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("FROM_HERE", "x")
	got := environment([]string{"PATH=/image", "A=image"}, []string{"HOME=/"}, []string{"A=wanted", "FROM_HERE", "NOT_HERE"}, false)
	if d := cmp.Diff([]string{"PATH=/image", "HOME=/", "A=wanted", "FROM_HERE=x"}, got); d != "" {
		t.Error(d)
	}
}

func TestUlimits(t *testing.T) {
	got, err := ulimits([]string{"nofile=1024:4096", "core=-1"})
	want := []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}, {Type: "RLIMIT_CORE", Soft: ^uint64(0), Hard: ^uint64(0)}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
}

func TestName(t *testing.T) {
	for ref, want := range map[string]string{
		"registry.example/team/Web:1.2": "web", "debian@sha256:abc": "debian", "./-_x.tar": "xtar", "/": "container", "a/b/": "b", "é": "container",
	} {
		if got := Name(ref); !regexp.MustCompile("^"+want+"-[0-9a-f]{4}$").MatchString(got) || !validName(got) {
			t.Errorf("%s is named %s", ref, got)
		}
	}
}

func TestSeekTail(t *testing.T) {
	long := strings.Repeat("x", 100<<10) // above what is read at once
	for _, tt := range []struct {
		text string
		n    int
		want string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 1, "c"}, {"a\nb\n", 9, "a\nb\n"}, {"a\n", 0, ""}, {"", 3, ""}, {"\n\n", 1, "\n"}, {"a\n" + long + "\nb\n", 2, long + "\nb\n"},
	} {
		file := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		err = seekTail(f, tt.n)
		got, _ := io.ReadAll(f)
		f.Close()
		if err != nil || string(got) != tt.want {
			t.Errorf("the last %d of %.10q: %.10q, %v", tt.n, tt.text, got, err)
		}
	}
}
