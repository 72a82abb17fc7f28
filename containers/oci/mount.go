package oci

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOptions are a mount's options, sorted by what takes them.
type mountOptions struct {
	set, clear       uint64 // MOUNT_ATTR
	recSet, recClear uint64 // the same for all below
	propagation      uint64
	recPropagation   bool
	bind, rbind      bool
	copyUp           bool     // fill a tmpfs with what it covers
	idmap, ridmap    bool     // show owners as in the user namespace
	data             []string // the file system's own
}

// cloneFlags are those of open_tree(2) for a bind mount.
func (o *mountOptions) cloneFlags() int {
	if o.rbind {
		return unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE
	}
	return unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
}

// attributes by option; an option that takes an attribute away has it negated.
var attributes = map[string]struct {
	attr  uint64
	clear bool
}{
	"ro": {unix.MOUNT_ATTR_RDONLY, false}, "rw": {unix.MOUNT_ATTR_RDONLY, true},
	"nosuid": {unix.MOUNT_ATTR_NOSUID, false}, "suid": {unix.MOUNT_ATTR_NOSUID, true},
	"nodev": {unix.MOUNT_ATTR_NODEV, false}, "dev": {unix.MOUNT_ATTR_NODEV, true},
	"noexec": {unix.MOUNT_ATTR_NOEXEC, false}, "exec": {unix.MOUNT_ATTR_NOEXEC, true},
	"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, false}, "symfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, true},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, false}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, true},
	"noatime": {unix.MOUNT_ATTR_NOATIME, false}, "strictatime": {unix.MOUNT_ATTR_STRICTATIME, false},
	"relatime": {unix.MOUNT_ATTR_RELATIME, false},
}

var propagations = map[string]uint64{"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE}

// noEffect are options of no effect on today's kernels, or the default.
var noEffect = []string{"defaults", "async", "loud", "norelatime", "nostrictatime", "atime", "nomand", "mand", "silent", "iversion", "noiversion", "nolazytime"}

// parseMountOptions sorts the options of a mount, e.g. "nosuid", "mode=755",
// "rbind", "rslave".
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md#linux-mount-options.
func parseMountOptions(options []string) (mountOptions, error) {
	var o mountOptions
	for _, opt := range options {
		plain, recursive := strings.CutPrefix(opt, "r")
		if a, ok := attributes[opt]; ok {
			apply(&o.set, &o.clear, a.attr, a.clear)
			continue
		}
		if a, ok := attributes[plain]; ok && recursive {
			apply(&o.recSet, &o.recClear, a.attr, a.clear)
			continue
		}
		if p, ok := propagations[opt]; ok {
			o.propagation = p
			continue
		}
		if p, ok := propagations[plain]; ok && recursive {
			o.propagation, o.recPropagation = p, true
			continue
		}
		if slices.Contains(noEffect, opt) {
			continue
		}
		switch opt {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.rbind = true, true
		case "idmap":
			o.idmap = true
		case "ridmap":
			o.idmap, o.ridmap = true, true
		case "tmpcopyup":
			o.copyUp = true
		case "remount":
			return o, fmt.Errorf("%s is not supported: give the mount its options at once", opt)
		default:
			if strings.IndexByte(opt, 0) >= 0 || opt == "" {
				return o, fmt.Errorf("%q is no option", opt)
			}
			o.data = append(o.data, opt)
		}
	}
	return o, nil
}

func apply(set, clear *uint64, attr uint64, takeAway bool) {
	// The times of access are a field of several bits.
	if attr == unix.MOUNT_ATTR_NOATIME || attr == unix.MOUNT_ATTR_STRICTATIME || attr == unix.MOUNT_ATTR_RELATIME {
		*clear |= unix.MOUNT_ATTR__ATIME
		*set &^= unix.MOUNT_ATTR__ATIME
		*set |= attr
		return
	}
	if takeAway {
		*clear |= attr
		*set &^= attr
		return
	}
	*set |= attr
	*clear &^= attr
}
