package placement

import (
	"fmt"
	"slices"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
)

// A Separation is how far containers of different tenants are kept apart.
type Separation string

// Separations.
const (
	// ByCore: no two tenants on one physical core, whose threads share its caches and
	// predictors.
	ByCore Separation = "core"
	// ByCache: nor behind one last-level cache.
	ByCache Separation = "cache"
)

// tenants is who is kept apart from whom. Containers that name no tenant are the
// machine's own, a tenant like others, as soon as one is named.
type tenants struct {
	// waiting have yet to choose; with one alone, or none, nobody is kept apart.
	waiting map[string]int
	several bool
	// held are the cpus of whole cores that each has so far.
	held map[string]cpuset.Set
}

func tenantsOf(containers []Container) tenants {
	t := tenants{waiting: map[string]int{}, held: map[string]cpuset.Set{}}
	for _, c := range containers {
		t.waiting[c.Tenant] = 0
	}
	t.several = len(t.waiting) > 1
	return t
}

// names are the tenants of some containers, sorted; nobody has one.
func tenantNames(containers []Container) []string {
	var out []string
	for _, c := range containers {
		if !slices.Contains(out, c.Tenant) {
			out = append(out, c.Tenant)
		}
	}
	slices.Sort(out)
	return out
}

// caches tells whether tenants are kept apart by last-level caches: there must be one
// for each.
func (d *decider) caches() bool {
	n := 0
	for _, g := range d.in.Machine.Groups {
		if g.Overlaps(d.online) {
			n++
		}
	}
	return d.in.Policy.Apart == ByCache && n >= len(d.waiting)
}

// apart are those of the allowed cpus that a member may choose from: none that another
// tenant has, and not so many that one is left without. Where there are too few it is
// all, and tell tells.
func (d *decider) apart(m member, allowed cpuset.Set) cpuset.Set {
	if !d.several {
		return allowed
	}
	if d.caches() {
		if may := d.choice(m, allowed, d.in.Machine.Groups); !may.Empty() {
			return may
		}
	}
	cores := make([]cpuset.Set, len(d.in.Machine.Cores))
	for i, c := range d.in.Machine.Cores {
		cores[i] = c.CPUs
	}
	if may := d.choice(m, allowed, cores); !may.Empty() {
		return may
	}
	return allowed
}

// choice is apart by units, cores or caches, of which a tenant has the whole.
func (d *decider) choice(m member, allowed cpuset.Set, units []cpuset.Set) cpuset.Set {
	var own, others cpuset.Set
	for tenant, cpus := range d.held {
		if tenant == m.tenant {
			own = own.Union(cpus)
		} else {
			others = others.Union(cpus)
		}
	}
	var may cpuset.Set
	var free []cpuset.Set
	for _, u := range units {
		switch {
		case !u.Overlaps(allowed) || u.Overlaps(others):
		case u.Overlaps(own):
			may = may.Union(u)
		default:
			free = append(free, u)
		}
	}
	left := len(free)
	for tenant, n := range d.waiting {
		if n > 0 && tenant != m.tenant && d.held[tenant].Empty() {
			left--
		}
	}
	if may.Empty() {
		left = max(left, 1)
	}
	// As the class would fill them.
	var all cpuset.Set
	for _, u := range free {
		all = all.Union(u)
	}
	for _, i := range d.order(m, all.Intersect(allowed)) {
		core := d.in.Machine.Cores[i].CPUs
		if left <= 0 {
			break
		}
		if core.SubsetOf(may) {
			continue
		}
		for _, u := range free {
			if u.Overlaps(core) {
				may = may.Union(u)
				left--
				break
			}
		}
	}
	return may.Intersect(allowed)
}

// hold notes that a tenant has cpus: the whole cores.
func (d *decider) hold(tenant string, cpus cpuset.Set) {
	if !d.several {
		return
	}
	d.held[tenant] = d.held[tenant].Union(d.cores(cpus))
}

// cores are the cpus of all cores that some cpus are of.
func (d *decider) cores(cpus cpuset.Set) cpuset.Set {
	var out cpuset.Set
	for _, c := range d.in.Machine.Cores {
		if c.CPUs.Overlaps(cpus) {
			out = out.Union(c.CPUs)
		}
	}
	return out
}

// unshared are those of some cpus that are of no other tenant's cores; all, if none are.
func (d *decider) unshared(tenant string, cpus cpuset.Set) cpuset.Set {
	left := cpus
	for t, held := range d.held {
		if t != tenant {
			left = left.Minus(held)
		}
	}
	if left.Empty() {
		return cpus
	}
	return left
}

// tell adds to the reasons of a plan who could not be kept apart.
func (d *decider) tell() {
	if !d.several {
		return
	}
	of := make(map[string]Container, len(d.in.Containers))
	for _, c := range d.in.Containers {
		of[c.ID] = c
	}
	places := map[string]cpuset.Set{} // whole cores
	for _, a := range d.plan.Assignments {
		if a.CPUs != nil {
			t := of[a.ID].Tenant
			places[t] = places[t].Union(d.cores(*a.CPUs))
		}
	}
	others := tenantNames(d.in.Containers)
	for i := range d.plan.Assignments {
		a := &d.plan.Assignments[i]
		own := of[a.ID].Tenant
		if a.CPUs == nil {
			a.Reason += "; so " + tenant(own) + " is not kept apart"
			continue
		}
		var with []string
		for _, t := range others {
			if t != own && places[t].Overlaps(*a.CPUs) {
				with = append(with, tenant(t))
			}
		}
		switch {
		case len(with) > 0:
			a.Reason += fmt.Sprintf("; too few cores to keep %s apart from %s", tenant(own), strings.Join(with, ", "))
		case d.in.Policy.Apart == ByCache && d.besideCache(own, *a.CPUs, places):
			a.Reason += fmt.Sprintf("; too few last-level caches for the tenants: %s is kept apart by cores", tenant(own))
		default:
			a.Reason += "; of " + tenant(own) + " alone"
		}
	}
}

// besideCache tells whether another tenant is behind the same last-level cache.
func (d *decider) besideCache(own string, cpus cpuset.Set, places map[string]cpuset.Set) bool {
	for _, g := range d.in.Machine.Groups {
		for t, held := range places {
			if t != own && g.Overlaps(cpus) && g.Overlaps(held) {
				return true
			}
		}
	}
	return false
}

func tenant(name string) string {
	if name == "" {
		return "no tenant"
	}
	return "tenant " + name
}
