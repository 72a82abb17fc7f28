// Package testbed boots a real Linux kernel on a PC that QEMU plays, with ACPI
// P-states, C-states and a power meter, and is the hardware around it.
//
// The guest is Debian's kernel (apt-get downloads it into the cache folder,
// $POWERD_CACHE or the user's cache directory), with either an initramfs made here
// or a small Debian with systemd. An SSDT generated from Config gives every cpu
// _PCT, _PSS, _PPC, _PSD and _CST, so that the guest's acpi-cpufreq and acpi_idle
// drive it as they drive hardware. KVM is not used: TCG alone keeps a vCPU one
// host thread whose time can be told and bounded.
//
// # The ports
//
// The P-state registers and the meter are ISA DMA page registers, plain storage
// that both the guest's ACPI and QEMU's monitor reach:
//
//	domain   0    1    2    3    4    5    6    7
//	port   0x82 0x83 0x81 0x87 0x89 0x8f 0x8a 0x8b
//
// With a meter, 0x8a and 0x8b are its mW, low byte first, and six domains are left.
//
// # The loop
//
// Every 20 ms the harness reads each domain's port, bounds its vCPUs' threads to
// HostShare x the OPP's speed by a cgroup quota (v1 or v2), and integrates power:
// Base, each cpu's IdlePower while its thread rests, its OPP's active power while
// it runs. Every 100 ms the meter gets the mean. So the guest meets a clock that
// really slows it down and a meter it cannot fool, and Truth has the account.
//
// What is not so: the guest's time goes by the host's, so a busy host makes a slow
// guest; SMT siblings share a core in name only; a deep idle state saves no more
// than C1 (the harness sees a vCPU halt, not how deep); translation makes the
// first run of code slow; ticks and wakes take the same host time however slow a vCPU's
// clock is, so a slow one does some percent less than its speed says. Bounds on times have
// to be coarse.
//
// # What a real kernel refuses
//
// testdata/errnos.txt has, line by line, what this kernel answers to bad writes,
// and TestErrnos keeps it true. What surprises in it:
//
//   - scaling_max_freq below scaling_min_freq is no error: both are requests, the
//     lower wins, and the hidden request comes back when the other is lifted.
//   - Frequencies are clamped to the hardware's and moved to an OPP (the maximum
//     down, the minimum up), so a good write may read back as another number.
//   - "1600000x" is the number 1600000; only a word without a number is EINVAL.
//   - A write of no bytes succeeds and does nothing, in sysfs and cgroups alike; to
//     clear cpuset.cpus takes "\n".
//   - cpuset.cpus takes a cpu that is offline, not one the machine cannot have
//     (ERANGE); a cgroup whose cpus are all offline runs on its parent's.
//   - The cpufreq files of an offline cpu stay, and give EBUSY; its topology folder
//     goes, its cpuidle and pm_qos files stay as they were.
package testbed
