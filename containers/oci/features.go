package oci

import (
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/powerd/powerd/containers/seccomp"
)

// Features are what this runtime can do, whether or not this host can.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/features.md.
func Features() *features.Features {
	yes, no := true, false
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         slices.Sorted(maps.Keys(hookLists(&specs.Hooks{}))),
		Linux: &features.Linux{
			Capabilities:    Capabilities(),
			Cgroup:          &features.Cgroup{V1: &no, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Seccomp:         seccomp.Features(),
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy:    &features.MemoryPolicy{},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
	}
	for mode := range memoryModes {
		f.Linux.MemoryPolicy.Modes = append(f.Linux.MemoryPolicy.Modes, string(mode))
	}
	for flag := range memoryFlags {
		f.Linux.MemoryPolicy.Flags = append(f.Linux.MemoryPolicy.Flags, string(flag))
	}
	slices.Sort(f.Linux.MemoryPolicy.Modes)
	slices.Sort(f.Linux.MemoryPolicy.Flags)
	for kind := range cloneFlags {
		f.Linux.Namespaces = append(f.Linux.Namespaces, string(kind))
	}
	slices.Sort(f.Linux.Namespaces)
	for option := range attributes {
		f.MountOptions = append(f.MountOptions, option, "r"+option)
	}
	for option := range propagations {
		f.MountOptions = append(f.MountOptions, option, "r"+option)
	}
	f.MountOptions = append(append(f.MountOptions, noEffect...), "bind", "rbind", "idmap", "ridmap", "tmpcopyup")
	slices.Sort(f.MountOptions)
	return f
}
