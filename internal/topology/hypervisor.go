package topology

import (
	"strings"

	"github.com/powerd/powerd/internal/sysfs"
)

// A Hypervisor is what a machine runs under.
type Hypervisor struct {
	// Name is "kvm", "xen", "vmware", ..., or "unknown".
	Name string `json:"name"`
	// Evidence is the file that gave it away.
	Evidence string `json:"evidence"`
}

// vendors are the strings by which hypervisors show in DMI.
var vendors = []struct{ text, name string }{
	{"kvm", "kvm"}, {"qemu", "qemu"}, {"amazon ec2", "kvm"}, {"google compute engine", "kvm"},
	{"openstack", "kvm"}, {"vmware", "vmware"}, {"innotek", "virtualbox"}, {"virtualbox", "virtualbox"},
	{"xen", "xen"}, {"parallels", "parallels"}, {"bochs", "bochs"}, {"virtual machine", "hyperv"},
	{"firecracker", "kvm"}, {"cloud hypervisor", "kvm"},
}

// ReadHypervisor tells what the machine runs under; nil where nothing says that
// it is a guest. DMI alone is no proof (clouds rent metal too), so on x86 the
// cpu's flag must agree where there is a /proc/cpuinfo.
func ReadHypervisor(r *sysfs.Reader) *Hypervisor {
	info := readCPUInfo(r)
	if kind := r.Text("sys/hypervisor/type"); kind != nil && *kind != "" {
		// Xen's dom0 has the hardware's controls and is no guest.
		if caps := r.Text("proc/xen/capabilities"); caps == nil || !strings.Contains(*caps, "control_d") {
			return &Hypervisor{*kind, "sys/hypervisor/type"}
		}
	}
	name, evidence := "", ""
	for _, file := range []string{"product_name", "sys_vendor", "board_vendor", "bios_vendor"} {
		file = "sys/class/dmi/id/" + file
		if s := r.Text(file); s != nil && name == "" {
			for _, v := range vendors {
				if strings.Contains(strings.ToLower(*s), v.text) {
					name, evidence = v.name, file
					break
				}
			}
		}
	}
	if name == "" {
		name, evidence = clockSource(r)
	}
	switch {
	case info.guest && name == "":
		return &Hypervisor{"unknown", "proc/cpuinfo flag hypervisor"}
	case name != "" && (info.guest || info.cpus.Empty() || !info.x86):
		return &Hypervisor{name, evidence}
	}
	if s := r.Text("sys/firmware/devicetree/base/hypervisor/compatible"); s != nil {
		return &Hypervisor{strings.TrimPrefix(strings.Trim(*s, "\x00"), "linux,"), "sys/firmware/devicetree/base/hypervisor/compatible"}
	}
	return nil
}

// clockSource names the hypervisor whose clock the kernel offers, from
// "kvm-clock tsc hpet acpi_pm"; only its guests have it.
func clockSource(r *sysfs.Reader) (name, evidence string) {
	const file = "sys/devices/system/clocksource/clocksource0/available_clocksource"
	if s := r.Text(file); s != nil {
		for word := range strings.FieldsSeq(*s) {
			switch {
			case word == "kvm-clock":
				return "kvm", file
			case word == "xen":
				return "xen", file
			case strings.HasPrefix(word, "hyperv"):
				return "hyperv", file
			}
		}
	}
	return "", ""
}
