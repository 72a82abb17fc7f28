package group

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allAccess is read, write and mknod.
const allAccess = unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE | unix.BPF_DEVCG_ACC_MKNOD

// A deviceRule allows or denies access to devices; -1 stands for any.
type deviceRule struct {
	allow        bool
	kind         int32
	major, minor int64
	access       int32
}

// defaultDevices may always be used, and any device node may be made, as with runc.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#default-devices.
var defaultDevices = []deviceRule{
	{true, unix.BPF_DEVCG_DEV_CHAR, -1, -1, unix.BPF_DEVCG_ACC_MKNOD},
	{true, unix.BPF_DEVCG_DEV_BLOCK, -1, -1, unix.BPF_DEVCG_ACC_MKNOD},
	{true, unix.BPF_DEVCG_DEV_CHAR, 1, 3, allAccess},    // null
	{true, unix.BPF_DEVCG_DEV_CHAR, 1, 5, allAccess},    // zero
	{true, unix.BPF_DEVCG_DEV_CHAR, 1, 7, allAccess},    // full
	{true, unix.BPF_DEVCG_DEV_CHAR, 1, 8, allAccess},    // random
	{true, unix.BPF_DEVCG_DEV_CHAR, 1, 9, allAccess},    // urandom
	{true, unix.BPF_DEVCG_DEV_CHAR, 5, 0, allAccess},    // tty
	{true, unix.BPF_DEVCG_DEV_CHAR, 5, 2, allAccess},    // ptmx
	{true, unix.BPF_DEVCG_DEV_CHAR, 136, -1, allAccess}, // pts
}

// deviceRules reads linux.resources.devices and adds the default devices. For each
// kind of access the last rule that matches counts; what none matches is denied.
func deviceRules(list []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	var out []deviceRule
	for i, d := range list {
		name := fmt.Sprintf("%sdevices[%d]", resources, i)
		r := deviceRule{allow: d.Allow, kind: -1, major: -1, minor: -1, access: allAccess}
		switch d.Type {
		case "", "a":
		case "c", "u":
			r.kind = unix.BPF_DEVCG_DEV_CHAR
		case "b":
			r.kind = unix.BPF_DEVCG_DEV_BLOCK
		default:
			return nil, field(name+".type", "want a, b or c, not %q", d.Type)
		}
		for _, n := range []struct {
			from *int64
			to   *int64
			name string
		}{{d.Major, &r.major, ".major"}, {d.Minor, &r.minor, ".minor"}} {
			if n.from == nil {
				continue
			}
			if *n.from < -1 || *n.from > math.MaxUint32 {
				return nil, field(name+n.name, "%d is no number of a device", *n.from)
			}
			*n.to = *n.from
		}
		if d.Access != "" {
			r.access = 0
			for _, c := range d.Access {
				at := strings.IndexRune("mrw", c) // the bits in the kernel's order
				if at < 0 {
					return nil, field(name+".access", "want some of r, w and m, not %q", d.Access)
				}
				r.access |= 1 << at
			}
		}
		out = append(out, r)
	}
	return append(out, defaultDevices...), nil
}

// deviceProgram compiles rules, the last first. It keeps in R3 the kinds of access
// that are asked for and not yet allowed.
//
// See struct bpf_cgroup_dev_ctx in linux/bpf.h: access<<16|type, major, minor.
func deviceProgram(rules []deviceRule) asm.Instructions {
	p := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R2),
		asm.And.Imm32(asm.R2, 0xffff),
		asm.RSh.Imm32(asm.R3, 16),
		asm.LoadMem(asm.R4, asm.R1, 4, asm.Word),
		asm.LoadMem(asm.R5, asm.R1, 8, asm.Word),
	}
	label := ""
	add := func(i asm.Instruction) {
		if label != "" {
			i = i.WithSymbol(label)
			label = ""
		}
		p = append(p, i)
	}
	for i := len(rules) - 1; i >= 0; i-- {
		r, next := rules[i], fmt.Sprintf("rule%d", i)
		if r.kind >= 0 {
			add(asm.JNE.Imm32(asm.R2, r.kind, next))
		}
		if r.major >= 0 {
			add(asm.JNE.Imm32(asm.R4, int32(uint32(r.major)), next))
		}
		if r.minor >= 0 {
			add(asm.JNE.Imm32(asm.R5, int32(uint32(r.minor)), next))
		}
		if r.allow {
			add(asm.And.Imm32(asm.R3, ^r.access))
		} else {
			add(asm.Mov.Reg32(asm.R0, asm.R3))
			add(asm.And.Imm32(asm.R0, r.access))
			add(asm.JEq.Imm32(asm.R0, 0, next))
			add(asm.Mov.Imm32(asm.R0, 0))
			add(asm.Return())
		}
		label = next
	}
	add(asm.Mov.Imm32(asm.R0, 0))
	return append(p,
		asm.JNE.Imm32(asm.R3, 0, "end"),
		asm.Mov.Imm32(asm.R0, 1),
		asm.Return().WithSymbol("end"))
}

// programName tells our programs from systemd's. The kernel has room for 15 characters.
const programName = "powerd_devices"

// setDevices puts device rules in force, and then those before out of it: in between
// both count, so nothing is allowed that neither allows.
func (r Ref) setDevices(rules []deviceRule) error {
	fail := func(err error) error {
		return field(resources+"devices", "cannot attach a program to cgroup %s: %w", r.Path, err)
	}
	dir, err := os.Open(r.Folder())
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	target := int(dir.Fd())
	attached, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return fail(err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: programName, Type: ebpf.CGroupDevice, Instructions: deviceProgram(rules), License: "Apache"})
	if err != nil {
		return fail(err)
	}
	defer program.Close()
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: target, Program: program, Attach: ebpf.AttachCGroupDevice, Flags: unix.BPF_F_ALLOW_MULTI}); err != nil {
		return fail(err)
	}
	var errs []error
	for _, a := range attached.Programs {
		old, err := ebpf.NewProgramFromID(a.ID)
		if errors.Is(err, os.ErrNotExist) {
			continue // gone by now
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if info, err := old.Info(); err != nil {
			errs = append(errs, err)
		} else if info.Name == programName {
			errs = append(errs, link.RawDetachProgram(link.RawDetachProgramOptions{Target: target, Program: old, Attach: ebpf.AttachCGroupDevice}))
		}
		errs = append(errs, old.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fail(err)
	}
	return nil
}
