package topology

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
)

// cpuInfo is what /proc/cpuinfo adds to sysfs. Its keys differ between
// architectures and old kernels.
type cpuInfo struct {
	cpus      cpuset.Set
	pkg, core map[cpuset.CPU]*int64
	// part is arm's "implementer:part", e.g. "0x41:0xc0f".
	part  map[cpuset.CPU]string
	model *string
	// x86 tells that there are flags, and guest that "hypervisor" is one of them.
	x86, guest bool
}

func readCPUInfo(r *sysfs.Reader) cpuInfo {
	if info := sysfs.Value(r, "proc/cpuinfo", parseCPUInfo); info != nil {
		return *info
	}
	return cpuInfo{}
}

// parseCPUInfo reads /proc/cpuinfo: blocks of lines "physical id	: 0" that
// begin with "processor	: 0". ARM of old puts what holds for all cpus in a
// last block without a processor. s390 writes "processor 0: version = ...".
func parseCPUInfo(s string) (cpuInfo, error) {
	info := cpuInfo{pkg: map[cpuset.CPU]*int64{}, core: map[cpuset.CPU]*int64{}, part: map[cpuset.CPU]string{}}
	cpu := cpuset.CPU(-1) // of the block, -1 where it has none
	implementer, common := "", ""
	for line := range strings.Lines(s) {
		key, value, ok := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok {
			if key == "" {
				cpu, implementer = -1, ""
			}
			continue
		}
		if n, ok := strings.CutPrefix(key, "processor "); ok { // s390
			key, value = "processor", n
		}
		switch key {
		case "processor":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil || n > uint64(cpuset.MaxCPU) {
				return cpuInfo{}, fmt.Errorf("processor %q is not a cpu number", value)
			}
			cpu = cpuset.CPU(n)
			info.cpus = info.cpus.Union(cpuset.Of(cpu))
		case "physical id", "core id":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil || cpu < 0 {
				continue
			}
			if key == "core id" {
				info.core[cpu] = &n
			} else {
				info.pkg[cpu] = &n
			}
		case "CPU implementer":
			implementer = value
		case "CPU part":
			if part := implementer + ":" + value; cpu >= 0 {
				info.part[cpu] = part
			} else {
				common = part
			}
		case "model name", "cpu": // x86, power
			if info.model == nil && value != "" {
				info.model = &value
			}
		case "flags":
			info.x86 = true
			info.guest = info.guest || strings.Contains(" "+value+" ", " hypervisor ")
		}
	}
	if info.cpus.Empty() {
		return cpuInfo{}, fmt.Errorf("has no line \"processor : N\"")
	}
	if common != "" && len(info.part) == 0 {
		for c := range info.cpus.All() {
			info.part[c] = common
		}
	}
	return info, nil
}
