package collector

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// This file maps runtime IDs to VMs. A VM is a domain: libvirt assigns a new runtime ID at each
// start of a domain, and assigns the same IDs again after a restart of the host.

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

// dumpedDomains returns the domains with a dump.
func (a *aggregate) dumpedDomains() map[string]bool {
	domains := make(map[string]bool)
	for r, totals := range a.runs {
		if name := r.domain(); totals.dumped && name != "" {
			domains[name] = true
		}
	}
	return domains
}

// domains returns the merged totals of the runs of each domain.
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

// domainTotals sums up the dumps of one domain.
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

// distinct returns a number of distinct names as a value, or errAmbiguous.
func (a *aggregate) distinct(n int) (float64, bool, error) {
	if a.ambiguous {
		return 0, false, errAmbiguous
	}
	return float64(n), true, nil
}

// VM is a monitored VM and its newest dump.
type VM struct {
	Name string // the newest domain name; may be empty
	UUID string // may be empty
	VMID string // the newest runtime ID
	// Names are all domain names within the look-back, sorted, or the runtime ID if telemetry
	// has nothing else. The VM owns the dumps of these names.
	Names []string
	// Shared is true if another monitored VM has one of the names: their dumps can't be
	// distinguished.
	Shared   bool
	LastDump time.Time // zero without a dump

	vmidAt, nameAt int64 // when VMID and Name were newest, in nanoseconds since 1970
}

// monitoredDomains returns the monitored VMs without their dumps. Several collectors may write
// about one VM: a series without uuid belongs to a VM with the same name, and a series without
// uuid and name to a VM with the same runtime ID. If there is no such VM, it is a VM of its own.
func monitoredDomains(telemetry map[identity]int64) []*VM {
	byUUID, byName, byID := map[string]*VM{}, map[string]*VM{}, map[string]*VM{}
	var vms []*VM
	vm := func(byKey map[string]*VM, key string) *VM {
		if byKey[key] == nil {
			byKey[key] = &VM{}
			vms = append(vms, byKey[key])
		}
		return byKey[key]
	}
	ids := slices.SortedFunc(maps.Keys(telemetry), func(a, b identity) int {
		return cmp.Or(cmp.Compare(a.uuid, b.uuid), cmp.Compare(a.name, b.name), cmp.Compare(a.vmid, b.vmid))
	})
	named := make(map[string]bool) // runtime IDs of series with a uuid or a name
	for _, id := range ids {
		if id.uuid != "" {
			vm(byUUID, id.uuid).addSeries(id, telemetry[id])
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
			vm(byName, id.name).addSeries(id, telemetry[id])
		case !named[id.vmid]:
			vm(byID, id.vmid).addSeries(id, telemetry[id])
		}
	}
	for _, v := range vms {
		if len(v.Names) == 0 && v.UUID == "" {
			v.Names = []string{v.VMID}
		}
	}
	return vms
}

// addSeries adds the tags of a series with its newest time, in nanoseconds since 1970.
func (v *VM) addSeries(id identity, ns int64) {
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

// covered returns the monitored VMs with their newest dumps, sorted by the time of the newest dump.
// VMs without a dump come first.
func covered(dumped *aggregate, telemetry map[identity]int64) []VM {
	owners := make(map[string]int) // number of VMs by name
	monitored := monitoredDomains(telemetry)
	for _, v := range monitored {
		for _, name := range v.Names {
			owners[name]++
		}
	}
	newest := make(map[string]instant) // dump by name
	for r, totals := range dumped.runs {
		if name := r.domain(); totals.dumped && owners[name] > 0 {
			newest[name] = newest[name].latest(instant{totals.newest, true})
		}
	}
	vms := make([]VM, 0, len(monitored))
	for _, v := range monitored {
		var last instant
		for _, name := range v.Names {
			v.Shared = v.Shared || owners[name] > 1
			last = last.latest(newest[name])
		}
		if last.present {
			v.LastDump = time.Unix(0, last.ns)
		}
		vms = append(vms, *v)
	}
	slices.SortFunc(vms, func(a, b VM) int {
		return cmp.Or(a.LastDump.Compare(b.LastDump), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID), cmp.Compare(a.VMID, b.VMID))
	})
	return vms
}
