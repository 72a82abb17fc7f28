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

// tenants is who is kept apart from whom while classes choose one after the other.
// Containers that name no tenant are the machine's own, a tenant like others, as soon as
// one is named.
type tenants struct {
	*search
	// waiting have yet to choose; with one alone, or none, nobody is kept apart.
	waiting map[string]int
	several bool
	// held are the cpus of whole cores that each has so far.
	held map[string]cpuset.Set
}

func (s *search) tenants() *tenants {
	t := &tenants{search: s, waiting: map[string]int{}, held: map[string]cpuset.Set{}}
	for _, c := range s.classes {
		t.waiting[c.tenant]++
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
func (t *tenants) caches() bool {
	n := 0
	for _, g := range t.mach.Groups {
		if g.Overlaps(t.online) {
			n++
		}
	}
	return t.policy.Apart == ByCache && n >= len(t.waiting)
}

// apart are those of the allowed cpus that a member may choose from: none that another
// tenant has, and not so many that one is left without. Where there are too few it is
// all, and tell tells.
func (t *tenants) apart(m member, allowed cpuset.Set) cpuset.Set {
	if !t.several {
		return allowed
	}
	if t.caches() {
		if may := t.choice(m, allowed, t.mach.Groups); !may.Empty() {
			return may
		}
	}
	cores := make([]cpuset.Set, len(t.mach.Cores))
	for i, c := range t.mach.Cores {
		cores[i] = c.CPUs
	}
	if may := t.choice(m, allowed, cores); !may.Empty() {
		return may
	}
	return allowed
}

// choice is apart by units, cores or caches, of which a tenant has the whole.
func (t *tenants) choice(m member, allowed cpuset.Set, units []cpuset.Set) cpuset.Set {
	var own, others cpuset.Set
	for tenant, cpus := range t.held {
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
	for tenant, n := range t.waiting {
		if n > 0 && tenant != m.tenant && t.held[tenant].Empty() {
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
	for _, i := range t.order(m, all.Intersect(allowed)) {
		core := t.mach.Cores[i].CPUs
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

// extended adds to a class' cores what those of its containers may use that may use none
// of them.
func (t *tenants) extended(m member, cores []int) []int {
	if m.alike {
		return cores
	}
	cpus := t.cpus(cores)
	for _, c := range m.containers {
		if own := c.Allowed.Intersect(t.online); c.CanPlace && !own.Empty() && !own.Overlaps(cpus) {
			cpus = cpus.Union(t.unshared(m.tenant, own))
		}
	}
	if cpus.Equal(t.cpus(cores)) {
		return cores
	}
	return slices.DeleteFunc(t.order(m, m.allowed), func(i int) bool { return !t.mach.Cores[i].CPUs.Overlaps(cpus) })
}

// keeps reports whether a member that runs on some cores is kept apart as far as it would be
// if it chose now.
func (t *tenants) keeps(m member, cores []int) bool {
	may := t.cpus(t.order(m, t.apart(m, m.allowed)))
	return t.cpus(t.extended(m, slices.DeleteFunc(slices.Clone(cores), func(i int) bool { return !t.mach.Cores[i].CPUs.SubsetOf(may) }))).Equal(t.cpus(cores))
}

// hold notes that a tenant has cpus: the whole cores.
func (t *tenants) hold(tenant string, cpus cpuset.Set) {
	if !t.several {
		return
	}
	t.held[tenant] = t.held[tenant].Union(t.whole(cpus))
}

// whole are the cpus of all cores that some cpus are of.
func (t *tenants) whole(cpus cpuset.Set) cpuset.Set {
	var out cpuset.Set
	for _, c := range t.mach.Cores {
		if c.CPUs.Overlaps(cpus) {
			out = out.Union(c.CPUs)
		}
	}
	return out
}

// unshared are those of some cpus that are of no other tenant's cores; all, if none are.
func (t *tenants) unshared(tenant string, cpus cpuset.Set) cpuset.Set {
	left := cpus
	for other, held := range t.held {
		if other != tenant {
			left = left.Minus(held)
		}
	}
	if left.Empty() {
		return cpus
	}
	return left
}

// tell adds to the reasons of a plan who could not be kept apart.
func (t *tenants) tell(p *Plan) {
	if !t.several {
		return
	}
	of := make(map[string]Container, len(t.containers))
	for _, c := range t.containers {
		of[c.ID] = c
	}
	places := map[string]cpuset.Set{} // whole cores
	for _, a := range p.Assignments {
		if a.CPUs != nil {
			own := of[a.ID].Tenant
			places[own] = places[own].Union(t.whole(*a.CPUs))
		}
	}
	others := tenantNames(t.containers)
	for i := range p.Assignments {
		a := &p.Assignments[i]
		own := of[a.ID].Tenant
		if a.CPUs == nil {
			a.Reason += "; so " + tenant(own) + " is not kept apart"
			continue
		}
		var with []string
		for _, o := range others {
			if o != own && places[o].Overlaps(*a.CPUs) {
				with = append(with, tenant(o))
			}
		}
		switch {
		case len(with) > 0:
			a.Reason += fmt.Sprintf("; too few cores to keep %s apart from %s", tenant(own), strings.Join(with, ", "))
		case t.policy.Apart == ByCache && t.besideCache(own, *a.CPUs, places):
			a.Reason += fmt.Sprintf("; too few last-level caches for the tenants: %s is kept apart by cores", tenant(own))
		default:
			a.Reason += "; of " + tenant(own) + " alone"
		}
	}
}

// besideCache tells whether another tenant is behind the same last-level cache.
func (t *tenants) besideCache(own string, cpus cpuset.Set, places map[string]cpuset.Set) bool {
	for _, g := range t.mach.Groups {
		for o, held := range places {
			if o != own && g.Overlaps(cpus) && g.Overlaps(held) {
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
