//go:build !powerd_oci

package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup2"
)

// ownLeaf moves this process to a leaf of the cgroup that systemd delegated to it,
// before it reports ready: a delegated cgroup may hold processes or children with
// controllers, not both. Outside a unit it does nothing.
//
// See systemd's docs/CGROUP_DELEGATION.md.
func ownLeaf() error {
	if os.Getenv("NOTIFY_SOCKET") == "" || cgroups.Mode() != cgroups.Unified {
		return nil
	}
	own, err := cgroup2.NestedGroupPath("")
	if err != nil {
		return fmt.Errorf("cannot find powerd's own cgroup: %v", err)
	}
	if strings.HasSuffix(own, "/control") {
		return nil
	}
	leaf, err := cgroup2.NewManager("/sys/fs/cgroup", own+"/control", &cgroup2.Resources{})
	if err == nil {
		err = leaf.AddProc(uint64(os.Getpid()))
	}
	if err != nil {
		return withHint(fmt.Errorf("cannot move powerd to a leaf of its cgroup %s: %v", own, err), "the unit needs Delegate=yes")
	}
	return nil
}
