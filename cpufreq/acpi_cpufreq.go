package cpufreq

import (
	"slices"

	"github.com/powerd/powerd/internal/units"
)

// acpiCPUFreq is acpi-cpufreq: the table is ACPI's _PSS. The highest entry stands
// for all boost clocks, so that cpuinfo_max_freq can be far above it. Firmware
// lowers what may be used by _PPC, which shows as bios_limit; a limit above it
// would never read back.
type acpiCPUFreq struct{ table }

func (acpiCPUFreq) steps(p Policy) []units.Frequency {
	steps := slices.Clone(p.Available)
	if p.BIOSLimit != nil {
		for len(steps) > 1 && steps[len(steps)-1] > *p.BIOSLimit {
			steps = steps[:len(steps)-1]
		}
	}
	return steps
}
