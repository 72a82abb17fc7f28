package testbed

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A kernel is Debian's, unpacked but not installed.
type kernel struct {
	image   string // boot/vmlinuz-6.1.0-56-amd64
	modules string // the folder lib/modules/6.1.0-56-amd64
	deps    map[string][]string
}

// fetchKernel downloads and unpacks the kernel that linux-image-amd64 stands for,
// once per version.
func fetchKernel(ctx context.Context) (*kernel, error) {
	const meta = "linux-image-amd64"
	const hint = "; if it is a matter of package lists, run apt-get update"
	out, err := tool(ctx, "", "apt-cache", "depends", meta)
	if err != nil {
		return nil, fmt.Errorf("cannot find the kernel package: %w%s", err, hint)
	}
	pkg := parseDepends(out)
	if pkg == "" {
		return nil, fmt.Errorf("cannot find the kernel package: apt-cache knows no %s%s", meta, hint)
	}
	out, err = tool(ctx, "", "apt-cache", "policy", pkg)
	if err != nil {
		return nil, fmt.Errorf("cannot find the kernel's version: %w%s", err, hint)
	}
	version := parseCandidate(out)
	if version == "" {
		return nil, fmt.Errorf("cannot find the kernel's version: apt-cache has no candidate for %s%s", pkg, hint)
	}
	key := pkg + "_" + strings.ReplaceAll(version, ":", "%3a")
	dir, err := cached(key, func(dir string) error {
		if _, err := tool(ctx, dir, "apt-get", "download", "-o", "APT::Sandbox::User=root", pkg+"="+version); err != nil {
			return fmt.Errorf("cannot download the kernel: %w%s", err, hint)
		}
		debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		if err != nil || len(debs) != 1 {
			return fmt.Errorf("cannot find the downloaded kernel in %s: %d packages", dir, len(debs))
		}
		if _, err := tool(ctx, dir, "dpkg", "-x", debs[0], dir); err != nil {
			return err
		}
		// The package makes modules.dep when it is installed, which it is not.
		if _, err := tool(ctx, dir, "depmod", "-b", dir, strings.TrimPrefix(pkg, "linux-image-")); err != nil {
			return err
		}
		return os.Remove(debs[0])
	})
	if err != nil {
		return nil, err
	}
	release := strings.TrimPrefix(pkg, "linux-image-")
	k := &kernel{
		image:   filepath.Join(dir, "boot", "vmlinuz-"+release),
		modules: filepath.Join(dir, "lib", "modules", release),
	}
	data, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel's modules: %w", err)
	}
	k.deps, err = parseModulesDep(string(data))
	return k, err
}

// parseDepends returns the first package that "apt-cache depends" names:
//
//	linux-image-amd64
//	  Depends: linux-image-6.1.0-56-amd64
func parseDepends(s string) string {
	for line := range strings.Lines(s) {
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
			return pkg
		}
	}
	return ""
}

// parseCandidate returns the version that "apt-cache policy" would install:
//
//	linux-image-6.1.0-56-amd64:
//	  Installed: (none)
//	  Candidate: 6.1.192-2
func parseCandidate(s string) string {
	for line := range strings.Lines(s) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
			return v
		}
	}
	return ""
}

// parseModulesDep reads depmod's modules.dep: each module's file and the files it
// needs, all of them, relative to the modules folder:
//
//	kernel/fs/ext4/ext4.ko: kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
//
// See modules.dep(5).
func parseModulesDep(s string) (map[string][]string, error) {
	deps := map[string][]string{}
	sc := bufio.NewScanner(strings.NewReader(s))
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("cannot read modules.dep: line %d has no colon", n)
		}
		deps[file] = strings.Fields(needs)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("cannot read modules.dep: %w", err)
	}
	return deps, nil
}

// moduleName is what modprobe calls a module's file: "-" and "_" are the same.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// loadOrder returns the files of the modules named and of all they need, each
// after what it needs itself.
func loadOrder(deps map[string][]string, names ...string) ([]string, error) {
	files := map[string]string{}
	for file := range deps {
		files[moduleName(file)] = file
	}
	var order []string
	var visit func(file string, depth int) error
	visit = func(file string, depth int) error {
		if slices.Contains(order, file) {
			return nil
		}
		if depth > len(deps) {
			return fmt.Errorf("cannot order modules: %s needs itself", file)
		}
		for _, need := range deps[file] {
			if err := visit(need, depth+1); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range names {
		file, ok := files[moduleName(name)]
		if !ok {
			return nil, fmt.Errorf("cannot find module %s: this kernel has none of that name", name)
		}
		if err := visit(file, 0); err != nil {
			return nil, err
		}
	}
	return order, nil
}
