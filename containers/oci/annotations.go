package oci

import (
	"strings"

	"github.com/powerd/powerd/internal/units"
)

// Annotations that say how powerd is to treat a container. They become attributes of its
// cgroup, trusted.powerd.class and so on, which the daemon reads.
const (
	// AnnotationClass is the name of a class of the daemon's policy.
	AnnotationClass = "powerd.class"
	// AnnotationSlowdown is how much longer its work may take than at full speed: 1.5.
	AnnotationSlowdown = "powerd.slowdown"
	// AnnotationTenant names whose it is: different tenants share no physical core.
	AnnotationTenant = "powerd.tenant"
	// AnnotationBudget is the most power it may be charged on average, 2W, or as an
	// energy per time, 90J/60s.
	AnnotationBudget = "powerd.energy-budget"
)

// CheckAnnotations refuses what the daemon would not understand, by a *FieldError.
func CheckAnnotations(annotations map[string]string) error {
	for key, value := range annotations {
		if !strings.HasPrefix(key, "powerd.") {
			continue
		}
		if len(key) > 100 || len(value) > 200 || strings.IndexByte(key, 0) >= 0 {
			return field("annotations", "%.100q is too long for a note on its cgroup", key)
		}
		name := "annotations[" + key + "]"
		switch key {
		case AnnotationClass, AnnotationTenant:
			if value == "" || len(value) > 100 || strings.ContainsAny(value, "\x00\n/") {
				return field(name, "want a name, not %q", value)
			}
		case AnnotationSlowdown:
			if _, err := units.ParseSlowdown(value); err != nil {
				return field(name, "want a factor of 1 to 1000, not %q", value)
			}
		case AnnotationBudget:
			if p, err := units.ParseBudget(value); err != nil || !(p > 0 && p <= units.Megawatt) {
				return field(name, "want a power such as 2W, or an energy per time such as 90J/60s, not %q", value)
			}
		}
	}
	return nil
}
