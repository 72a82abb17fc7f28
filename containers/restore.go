package containers

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/powerd/powerd/internal/sysfs"
)

// ClearCPUs makes the cpuset.cpus of a cgroup empty although tasks are in it,
// which the kernel refuses (ENOSPC, kernel/cgroup/cpuset.c, validate_change): it
// takes the controller from the parent's children and gives it back, so that they
// all start anew. That needs every sibling to have nothing set, or only what the
// journal is to clear as well.
//
// Where it cannot, the cgroup gets every cpu that its parent has, which is what
// empty means as long as the parent's do not change, and asGood says so. Refused
// is why the plain write failed; what is not this case is returned as it is.
func ClearCPUs(j *sysfs.Journal, w sysfs.Write, refused error) (asGood string, err error) {
	dir, file := path.Split(w.File)
	if file != "cpuset.cpus" || strings.TrimSpace(w.Value) != "" || !errors.Is(refused, syscall.ENOSPC) {
		return "", refused
	}
	dir = path.Clean(dir)
	parent := path.Dir(dir)
	if freshSiblings(j, parent) {
		control := parent + "/cgroup.subtree_control"
		if err := j.WriteFile(control, []byte("-cpuset\n")); err == nil {
			// Without this second write they would stay without cpusets.
			for range 3 {
				if err = j.WriteFile(control, []byte("+cpuset\n")); err == nil {
					return "", nil
				}
			}
			return "", fmt.Errorf("cannot enable cpuset again in %s: %w", control, err)
		}
	}
	effective, err := j.ReadFile(parent + "/cpuset.cpus.effective")
	if err == nil {
		err = j.WriteFile(w.File, effective)
	}
	if err != nil {
		return "", errors.Join(refused, err)
	}
	return fmt.Sprintf("the kernel does not clear it while tasks are in the cgroup, and its siblings have cpusets of others; it has all its parent's cpus, %s",
		strings.TrimSpace(string(effective))), nil
}

// freshSiblings reports whether no cgroup below parent has a cpuset that would be
// lost: set by somebody else, or to be put back to something.
func freshSiblings(j *sysfs.Journal, parent string) bool {
	names, err := j.ReadDir(parent)
	if err != nil {
		return false
	}
	value := func(file string) string {
		data, err := j.ReadFile(file)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	if !slices.Contains(strings.Fields(value(parent+"/cgroup.subtree_control")), "cpuset") {
		return false
	}
	for _, name := range names {
		child := path.Join(parent, name)
		if controlFile(name) {
			continue
		}
		if _, err := j.ReadFile(child + "/cgroup.procs"); err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
			continue // no cgroup
		}
		cpus := value(child + "/cpuset.cpus")
		if was, ours := j.First(child + "/cpuset.cpus"); ours {
			if left, _ := j.Left(child + "/cpuset.cpus"); left == cpus {
				cpus = was // else somebody changed it since, and keeps it
			}
		}
		partition := value(child + "/cpuset.cpus.partition")
		if cpus != "" || value(child+"/cpuset.mems") != "" || partition != "" && partition != "member" ||
			slices.Contains(strings.Fields(value(child+"/cgroup.subtree_control")), "cpuset") {
			return false
		}
	}
	return true
}
