package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/powerd/powerd/internal/testbed/wire"
)

// Modules every node loads. schedutil and performance are built in.
var nodeModules = []string{
	"virtio_pci", "virtio_console",
	"acpi-cpufreq", "cpufreq_userspace", "cpufreq_ondemand", "cpufreq_conservative", "cpufreq_powersave",
	"acpi_power_meter",
}

// Modules of a root on a disk. ext4 asks for crc32c by a name only modprobe knows.
var diskModules = []string{"virtio_blk", "crc32c_generic", "ext4"}

const busybox = "/bin/busybox"

// buildAgent compiles the guest's program, which must not need a C library.
func buildAgent(ctx context.Context, dir string) (string, error) {
	out := filepath.Join(dir, "agent")
	if _, err := tool(ctx, "", "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64",
		"go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/powerd/powerd/internal/testbed/guest"); err != nil {
		return "", fmt.Errorf("cannot build the guest's agent: %w", err)
	}
	return out, nil
}

// writeInitramfs makes the archive the kernel unpacks as its first root: the
// agent as /init, its modules and those given, and, for a root without a disk, busybox. Each of
// files (guest path to host path) goes to its place, or, with a disk, to
// wire.FilesDir for the agent to copy.
func writeInitramfs(name string, k *kernel, agent string, disk bool, modules []string, files map[string]string) error {
	want, prefix := nodeModules, ""
	var boot wire.Boot
	if disk {
		want, prefix = slices.Concat(nodeModules, diskModules), wire.FilesDir
		boot.RootDevice = "/dev/vda"
	}
	order, err := loadOrder(k.deps, slices.Concat(want, modules)...)
	if err != nil {
		return err
	}
	// The console is a node the kernel opens for process 1 before /dev is there.
	records := []cpio.Record{cpio.CharDev("dev/console", 0o600, 5, 1)}
	add := func(guest, host string) error {
		data, err := os.ReadFile(host)
		if err != nil {
			return fmt.Errorf("cannot take %s into the guest: %w", guest, err)
		}
		info, err := os.Stat(host)
		if err != nil {
			return fmt.Errorf("cannot take %s into the guest: %w", guest, err)
		}
		records = append(records, cpio.StaticRecord(data, cpio.Info{
			Name: strings.TrimPrefix(guest, "/"),
			Mode: cpio.S_IFREG | uint64(info.Mode().Perm()),
		}))
		return nil
	}
	if err := add("init", agent); err != nil {
		return err
	}
	for _, m := range order {
		boot.Modules = append(boot.Modules, "/modules/"+path.Base(m))
		if err := add("modules/"+path.Base(m), filepath.Join(k.modules, m)); err != nil {
			return err
		}
	}
	if !disk {
		if err := add(busybox, busybox); err != nil {
			return fmt.Errorf("%w; %s", err, setupHint)
		}
	}
	for _, guest := range slices.Sorted(maps.Keys(files)) {
		if !path.IsAbs(guest) || path.Clean(guest) != guest {
			return fmt.Errorf("cannot take %s into the guest: the path is not absolute and clean", guest)
		}
		boot.Files = append(boot.Files, guest)
		if err := add(prefix+guest, files[guest]); err != nil {
			return err
		}
	}
	recipe, err := json.Marshal(boot)
	if err != nil {
		return err
	}
	records = append(records, cpio.StaticFile(strings.TrimPrefix(wire.BootFile, "/"), string(recipe), 0o644))

	var out bytes.Buffer
	if err := writeArchive(&out, records); err != nil {
		return fmt.Errorf("cannot make the initramfs: %w", err)
	}
	return os.WriteFile(name, out.Bytes(), 0o644)
}

func writeArchive(w io.Writer, records []cpio.Record) error {
	cw := cpio.NewDedupWriter(cpio.Newc.Writer(w))
	if err := cpio.WriteRecordsAndDirs(cw, records); err != nil {
		return err
	}
	return cpio.WriteTrailer(cw)
}
