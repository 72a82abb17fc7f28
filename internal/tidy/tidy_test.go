// Package tidy holds the house rules that a compiler cannot: who may import whom,
// what each package says of itself, and where printing and exiting happen.
package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/powerd/powerd/"

// A rule bans imports of a package, with the reason. Std is allowed unless banned;
// of this module and of others only what is listed is.
type rule struct {
	may    []string // packages of this module, or others' by prefix
	banned []string // of the standard library
	why    string
}

// rules is the import table. Tests of a package may import more.
var rules = map[string]rule{
	"internal/units":    {why: "quantities are everybody's, so they depend on nobody"},
	"internal/cpuset":   {why: "cpu lists are everybody's, so they depend on nobody"},
	"internal/sysfs":    {why: "the door to pseudo-files knows no file's meaning"},
	"internal/topology": {may: []string{"internal/sysfs", "internal/cpuset", "internal/units"}, why: "readers of hardware do not know one another: a broken one costs itself only"},
	"acpi":              {may: []string{"internal/sysfs", "internal/cpuset", "internal/units"}, why: "readers of hardware do not know one another: a broken one costs itself only"},
	"cpufreq":           {may: []string{"internal/sysfs", "internal/cpuset", "internal/units"}, why: "readers of hardware do not know one another: a broken one costs itself only"},
	"cstates":           {may: []string{"internal/sysfs", "internal/cpuset", "internal/units"}, why: "readers of hardware do not know one another: a broken one costs itself only"},
	"containers":        {may: []string{"internal/sysfs", "internal/cpuset"}, why: "containers run on any hardware"},
	"containers/oci":    {may: []string{"containers/group", "containers/network", "containers/seccomp", "containers/spawn", "internal/cpuset", "internal/units", "github.com/opencontainers/runtime-spec", "golang.org/x/sys", "golang.org/x/term"}, why: "the runtime knows nothing of power"},
	"containers/group": {may: []string{"containers/spawn", "github.com/opencontainers/runtime-spec", "github.com/containerd/cgroups/v3", "github.com/cilium/ebpf", "github.com/coreos/go-systemd/v22", "github.com/godbus/dbus/v5", "golang.org/x/sys"},
		why: "one container's cgroup: it knows no container beside its limits"},
	"containers/seccomp": {may: []string{"github.com/elastic/go-seccomp-bpf/arch", "github.com/opencontainers/runtime-spec", "golang.org/x/net/bpf", "golang.org/x/sys"}, why: "a compiler: what it makes others install"},
	"containers/spawn":   {may: []string{"golang.org/x/sys"}, why: "it runs between fork and exec, where nothing may surprise"},
	"containers/images": {may: []string{"github.com/google/go-containerregistry", "github.com/klauspost/compress", "github.com/moby/sys/user", "github.com/opencontainers/runtime-spec", "golang.org/x/sync", "golang.org/x/sys"},
		why: "an image is files and a config; who runs it is others' matter"},
	"containers/network": {may: []string{"github.com/google/nftables", "github.com/opencontainers/runtime-spec", "github.com/vishvananda/netlink", "github.com/vishvananda/netns", "golang.org/x/sys"},
		why: "a network joins namespaces; whose they are it does not know"},
	"containers/launch": {may: []string{"containers/images", "containers/network", "containers/oci", "containers/spawn", "github.com/opencontainers/runtime-spec", "golang.org/x/sys"},
		why: "it joins the rooms that run containers, for people; what is cheap for a machine others know"},
	"internal/energy":   {may: []string{"cpufreq", "cstates", "internal/cpuset", "internal/sysfs", "internal/units"}, why: "it prices hardware, and decides nothing"},
	"internal/counters": {may: []string{"internal/cpuset", "internal/units", "golang.org/x/sys"}, why: "it counts what work does, and decides nothing"},
	"internal/limit":    {why: "a bound knows no policy"},
	"placement": {may: []string{"cpufreq", "internal/cpuset", "internal/units"},
		banned: []string{"os", "net", "sync", "context", "log", "io", "math/rand", "math/rand/v2"},
		why:    "deciding is pure: the same input, the same plan, on any machine and in any test"},
	"configs": {may: []string{"placement", "containers", "cpufreq", "cstates", "internal/cpuset", "internal/energy", "internal/units", "github.com/goccy/go-yaml"}, why: "YAML ends here: nobody behind it knows of files or keys"},
	"internal/daemon": {may: []string{"acpi", "configs", "containers", "cpufreq", "cstates", "placement", "internal/counters", "internal/cpuset", "internal/energy", "internal/sysfs", "internal/topology", "internal/units",
		"github.com/prometheus/procfs", "golang.org/x/sys"}, why: "the one place that acts; it does not know its views, nor that a machine may be simulated"},
	"internal/sim":    {may: []string{"containers", "cpufreq", "cstates", "internal/counters", "internal/cpuset", "internal/sysfs", "internal/units"}, why: "a machine does not know who governs it"},
	"internal/loads":  {may: []string{"internal/limit", "internal/sim"}, why: "work does not know where it is done"},
	"internal/bench":  {may: []string{"configs", "internal/counters", "internal/cpuset", "internal/daemon", "internal/energy", "internal/limit", "internal/loads", "internal/sim", "internal/sysfs", "internal/units", "internal/worker"}, why: "it runs the daemon as users do"},
	"internal/report": {may: []string{"internal/bench", "internal/energy", "internal/units"}, why: "a page shows what was found; it runs nothing"},
	"internal/calibrate": {may: []string{"cpufreq", "cstates", "internal/cpuset", "internal/energy", "internal/sim", "internal/sysfs", "internal/topology", "internal/units", "gonum.org/v1/gonum"},
		why: "it measures and fits; who goes by the result it does not know"},
	"internal/worker":        {may: []string{"internal/cpuset", "golang.org/x/sys"}, why: "it only burns"},
	"internal/testbed":       {may: []string{"cpufreq", "cstates", "internal/cpuset", "internal/sysfs", "internal/units", "internal/testbed/wire", "github.com/u-root", "golang.org/x/sys"}, why: "a machine does not know who governs it"},
	"internal/conformance":   {why: "it runs what others have made, in a node"},
	"internal/testbed/guest": {may: []string{"internal/testbed/wire", "internal/sysfs", "golang.org/x/sys"}, why: "it runs alone in a guest"},
	"internal/testbed/wire":  {why: "both ends speak it"},
	"internal/sysfs/sysfstest": {may: []string{"internal/sysfs", "golang.org/x/tools/txtar"},
		why: "fixtures for every reader"},
	"internal/tidy": {why: "it reads the house from outside"},
	"cmd/powerd":    {may: []string{""}, why: "wiring: it sees everything"},
}

// source is one Go file of the project.
type source struct {
	name string // from the project's root
	pkg  string
	test bool
	file *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	const root = "../.."
	set := token.NewFileSet()
	var out []source
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (strings.HasPrefix(e.Name(), ".") && e.Name() != ".." || e.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(set, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		out = append(out, source{filepath.ToSlash(name), path.Dir(filepath.ToSlash(name)), strings.HasSuffix(p, "_test.go"), f})
		return err
	})
	if err != nil || len(out) < 50 {
		t.Fatalf("%d files, %v", len(out), err)
	}
	return out
}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		r, ok := rules[s.pkg]
		if !ok {
			t.Errorf("%s: package %s is not in the import table: decide what it may know", s.name, s.pkg)
			continue
		}
		seen[s.pkg] = true
		if s.test {
			continue
		}
		for _, i := range s.file.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			if slices.Contains(r.banned, p) || p == "log" && s.pkg != "internal/testbed/guest" {
				t.Errorf("%s imports %s: %s", s.name, p, r.why)
			}
			own, ours := strings.CutPrefix(p, module)
			if !ours {
				if first, _, _ := strings.Cut(p, "/"); !strings.Contains(first, ".") {
					continue // the standard library
				}
				own = p
			}
			if !slices.ContainsFunc(r.may, func(m string) bool {
				return m == "" || m == own || !ours && strings.HasPrefix(own, m+"/") || m == own
			}) {
				t.Errorf("%s imports %s: %s", s.name, p, r.why)
			}
		}
	}
	for pkg := range rules {
		if !seen[pkg] {
			t.Errorf("the import table has %s, which is no package", pkg)
		}
	}
}

// Every package says once what it is, in doc.go or its only file.
func TestPackageDocs(t *testing.T) {
	docs := map[string][]string{}
	pkgs := map[string]bool{}
	for _, s := range sources(t) {
		if s.test && s.pkg != "internal/tidy" {
			continue
		}
		pkgs[s.pkg] = true
		if s.file.Doc != nil {
			docs[s.pkg] = append(docs[s.pkg], s.name)
			text := s.file.Doc.Text()
			if !strings.HasPrefix(text, "Package "+s.file.Name.Name+" ") && !strings.HasPrefix(text, "Command ") {
				t.Errorf("%s: the package comment begins with %.30q", s.name, text)
			}
		}
	}
	for pkg := range pkgs {
		if len(docs[pkg]) != 1 {
			t.Errorf("package %s is described in %d files: %v", pkg, len(docs[pkg]), docs[pkg])
		}
	}
}

// Printing is ui's, exiting main's; panics are for what cannot be.
func TestPrintAndExit(t *testing.T) {
	mayPrint := func(name string) bool {
		return strings.HasPrefix(path.Base(name), "ui") && path.Dir(name) == "cmd/powerd" || strings.HasPrefix(name, "internal/testbed/guest/")
	}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch f := call.Fun.(type) {
			case *ast.SelectorExpr:
				x, ok := f.X.(*ast.Ident)
				if !ok {
					return true
				}
				switch what := x.Name + "." + f.Sel.Name; what {
				case "fmt.Print", "fmt.Println", "fmt.Printf":
					if !mayPrint(s.name) {
						t.Errorf("%s calls %s: cmd/powerd/ui.go prints", s.name, what)
					}
				case "os.Exit":
					if s.name != "cmd/powerd/main.go" && !strings.HasPrefix(s.name, "internal/testbed/guest/") {
						t.Errorf("%s calls %s: main exits", s.name, what)
					}
				}
			case *ast.Ident:
				if f.Name == "print" || f.Name == "println" {
					t.Errorf("%s calls %s", s.name, f.Name)
				}
			}
			return true
		})
	}
}

// The README, ARCHITECTURE and CHANGELOG name files that are there.
func TestDocsNameFiles(t *testing.T) {
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "docs/benchmarks.md", "docs/calibrate.md"} {
		data, err := os.ReadFile("../../" + doc)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, part := range strings.Split(string(data), "](")[1:] {
			target, _, _ := strings.Cut(part, ")")
			if strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join("../..", path.Dir(doc), target)); err != nil {
				t.Errorf("%s links to %s: %v", doc, target, err)
			}
		}
	}
}
