package daemon

import (
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

// firmwarePowers returns the power that firmware states for each clock, a table
// per _PSS (ACPI 6.5, 8.4.5.2: the typical maximum dissipation at that state).
func firmwarePowers(_ *sysfs.Reader) []map[units.Frequency]units.Power { return nil }
