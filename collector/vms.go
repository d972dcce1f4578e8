package collector

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// This file is where runtime IDs become VMs: a VM is a domain. libvirt hands out a runtime ID
// at each start of a domain, and hands it out again after the host has restarted.

// dumpedRuntimeIDs returns the distinct runtime IDs of the dumps.
func (a *aggregate) dumpedRuntimeIDs() map[string]bool {
	ids := make(map[string]bool)
	for r, totals := range a.runs {
		if totals.dumped && r.vmid != "" {
			ids[r.vmid] = true
		}
	}
	return ids
}

// hasDumpedRuntimeID reports whether some dump has a runtime ID.
func (a *aggregate) hasDumpedRuntimeID() bool {
	for r, totals := range a.runs {
		if totals.dumped && r.vmid != "" {
			return true
		}
	}
	return false
}

// dumpedDomains returns the domains with a newest dump.
func (a *aggregate) dumpedDomains() map[string]domainTotals {
	domains := a.domains()
	maps.DeleteFunc(domains, func(_ string, totals domainTotals) bool { return !totals.dumped })
	return domains
}

// domains returns the totals of each domain: those of its runs, merged. Runtime ID and host are
// those of the newest dump.
func (a *aggregate) domains() map[string]domainTotals {
	domains := make(map[string]domainTotals)
	for r, more := range a.runs {
		name := r.domain()
		if name == "" {
			continue
		}
		totals := domains[name]
		totals.addSizes(more)
		if more.dumped && (!totals.dumped || more.newest > totals.newest ||
			more.newest == totals.newest && r.vmid < totals.vmid) {
			totals.dumped, totals.newest, totals.host, totals.vmid = true, more.newest, more.host, r.vmid
		}
		domains[name] = totals
	}
	return domains
}

// domainTotals are the dumps of one domain.
type domainTotals struct {
	runTotals
	vmid string // of the newest dump; may be empty
}

// runtimeIDs returns the distinct runtime IDs of the telemetry.
func (a *aggregate) runtimeIDs() map[string]bool {
	ids := make(map[string]bool)
	for id := range a.vms {
		ids[id.vmid] = true
	}
	return ids
}

// distinct returns a number of distinct names, unless some of them may be several.
func (a *aggregate) distinct(n int) (float64, bool, error) {
	if a.unclear {
		return 0, false, errUnclear
	}
	return float64(n), true, nil
}

// VM is a monitored VM and its newest dump.
type VM struct {
	Name string // the newest known domain name; empty where telemetry names none
	UUID string // may be empty
	VMID string // the newest runtime ID
	// Names are all domain names within the look-back, sorted; the runtime ID where telemetry
	// has nothing else. The VM owns the dumps of these names.
	Names []string
	// Shared says that another monitored VM has one of the names: their dumps can't be told
	// apart.
	Shared   bool
	LastDump time.Time // zero when it has none

	vmidAt, nameAt int64 // when VMID and Name were seen, in nanoseconds since 1970
}

// monitoredDomains returns the monitored VMs without their dumps. Telemetry without a uuid is
// that of the VM that has its name, and telemetry without a name that of the VM that has its
// runtime ID, where there is one: several collectors may write about the same VM.
func monitoredDomains(telemetry map[identity]int64) []*VM {
	byUUID, byName, byID := map[string]*VM{}, map[string]*VM{}, map[string]*VM{}
	var vms []*VM
	vm := func(known map[string]*VM, key string) *VM {
		if known[key] == nil {
			known[key] = &VM{}
			vms = append(vms, known[key])
		}
		return known[key]
	}
	ids := slices.SortedFunc(maps.Keys(telemetry), func(a, b identity) int {
		return cmp.Or(cmp.Compare(a.uuid, b.uuid), cmp.Compare(a.name, b.name), cmp.Compare(a.vmid, b.vmid))
	})
	named := make(map[string]bool) // runtime IDs of telemetry that tells more
	for _, id := range ids {
		if id.uuid != "" {
			vm(byUUID, id.uuid).see(id, telemetry[id])
		}
		named[id.vmid] = named[id.vmid] || id.uuid != "" || id.name != ""
	}
	for _, v := range vms {
		for _, name := range v.Names {
			byName[name] = v
		}
	}
	for _, id := range ids {
		switch {
		case id.uuid != "":
		case id.name != "":
			vm(byName, id.name).see(id, telemetry[id])
		case !named[id.vmid]:
			vm(byID, id.vmid).see(id, telemetry[id])
		}
	}
	for _, v := range vms {
		if len(v.Names) == 0 && v.UUID == "" {
			v.Names = []string{v.VMID}
		}
	}
	return vms
}

// see adds what one series tells of the VM.
func (v *VM) see(id identity, ns int64) {
	if v.VMID == "" || ns > v.vmidAt {
		v.VMID, v.vmidAt = id.vmid, ns
	}
	if id.uuid != "" {
		v.UUID = id.uuid
	}
	if id.name == "" {
		return
	}
	if v.Name == "" || ns > v.nameAt {
		v.Name, v.nameAt = id.name, ns
	}
	if i, found := slices.BinarySearch(v.Names, id.name); !found {
		v.Names = slices.Insert(v.Names, i, id.name)
	}
}

// covered returns the monitored VMs with their newest dumps: those without one first, then by
// the age of the newest.
func covered(domains map[string]domainTotals, telemetry map[identity]int64) []VM {
	bearers := make(map[string]int)
	monitored := monitoredDomains(telemetry)
	for _, v := range monitored {
		for _, name := range v.Names {
			bearers[name]++
		}
	}
	vms := make([]VM, 0, len(monitored))
	for _, v := range monitored {
		for _, name := range v.Names {
			v.Shared = v.Shared || bearers[name] > 1
			if totals, ok := domains[name]; ok {
				if at := time.Unix(0, totals.newest); at.After(v.LastDump) {
					v.LastDump = at
				}
			}
		}
		vms = append(vms, *v)
	}
	slices.SortFunc(vms, func(a, b VM) int {
		return cmp.Or(a.LastDump.Compare(b.LastDump), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID), cmp.Compare(a.VMID, b.VMID))
	})
	return vms
}
