package collector

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/influx"
)

// vmStats are the rows whose partial answers are series for each VM, asked for by
// choice. What the servers answer to the first is recorded as "by_vm".
var vmStats = []stat{
	row[vmTotals]{about: about{
		query:    "vm_totals",
		from:     dumps,
		text:     statement{sel: `COUNT("sha256") AS "dumps", SUM("gzip_size_bytes") AS "bytes", LAST("sha256") AS "last"`, tail: `GROUP BY "vmid"`},
		fields:   []string{"sha256"},
		tag:      "vmid",
		maxBytes: maxSetBytes,
	}, read: addVMTotal},
	row[places]{about: about{
		query:    "vm_places",
		from:     dumps,
		text:     statement{sel: `"sha256","dom","host"`, where: `"vmid" != ''`, tail: `GROUP BY "vmid" ORDER BY time DESC LIMIT 1`},
		fields:   []string{"sha256"},
		tag:      "vmid",
		maxBytes: maxSetBytes,
	}, read: addPoint("vmid", func(row influx.Row) place { return place{text(row, "dom"), text(row, "host")} })},
}

// vmMetrics are the series of each VM. Where it was is in one of them alone, so that a
// move or a new name breaks no graph.
var vmMetrics = []struct {
	desc *prometheus.Desc
	give func(vmSeries, func(value float64, labels ...string))
}{
	{
		prometheus.NewDesc("memdump_vm_last_dump_timestamp_seconds",
			"Time of the newest memory dump of the VM (its start), in seconds since 1970. With --collect.per-vm.", []string{"vmid"}, nil),
		func(vm vmSeries, give func(float64, ...string)) { give(seconds(vm.last.ns)) },
	},
	{
		prometheus.NewDesc("memdump_vm_dumps",
			"Memory dumps of the VM on record, of all time. With --collect.per-vm.", []string{"vmid"}, nil),
		func(vm vmSeries, give func(float64, ...string)) {
			if vm.total.dumps > 0 {
				give(float64(vm.total.dumps))
			}
		},
	},
	{
		prometheus.NewDesc("memdump_vm_dumps_compressed_bytes",
			"Size of the VM's memory dumps on record after compression (gzip_size_bytes), of all time, in bytes. Absent when no dump of it has a size. With --collect.per-vm.", []string{"vmid"}, nil),
		func(vm vmSeries, give func(float64, ...string)) {
			if vm.total.sized {
				give(float64(vm.total.bytes))
			}
		},
	},
	{
		prometheus.NewDesc("memdump_vm_info",
			"1, labelled with the domain and the host that the VM's newest memory dump names. With --collect.per-vm.", []string{"vmid", "dom", "host"}, nil),
		func(vm vmSeries, give func(float64, ...string)) {
			if vm.place.ns != 0 {
				give(1, vm.place.says.dom, vm.place.says.host)
			}
		},
	},
}

var omittedDesc = prometheus.NewDesc("memdump_vms_omitted",
	"Dumped VMs without metrics of their own: beyond --collect.per-vm.limit, or with a vmid that is not UTF-8. With --collect.per-vm.", nil, nil)

// vmSeries is what is known of one VM; what is not known is zero.
type vmSeries struct {
	vmid  string
	last  point[string]
	total vmTotal
	place point[place]
}

// perVM gives the series of the most recently dumped VMs. Which those are says the query
// dumped_vms; while it fails, there are none.
func (s sample) perVM(gauge func(*prometheus.Desc, float64, ...string)) {
	dumped, known := membersOf(s.figures, s.answers, dumpedVMs)
	if s.PerVM == 0 || !known {
		return
	}
	var totals vmTotals
	var placed places
	for _, a := range s.answers {
		switch partial := a.partial.(type) {
		case vmTotals:
			totals = partial
		case places:
			placed = partial
		}
	}
	var vms []vmSeries
	for vmid, last := range dumped {
		if !strings.ContainsRune(vmid, utf8.RuneError) {
			vms = append(vms, vmSeries{vmid, last, totals[vmid], placed[vmid]})
		}
	}
	slices.SortFunc(vms, func(a, b vmSeries) int {
		return cmp.Or(cmp.Compare(b.last.ns, a.last.ns), cmp.Compare(a.vmid, b.vmid))
	})
	vms = vms[:min(len(vms), s.PerVM)]
	for _, m := range vmMetrics {
		for _, vm := range vms {
			m.give(vm, func(value float64, labels ...string) {
				gauge(m.desc, value, append([]string{vm.vmid}, labels...)...)
			})
		}
	}
	gauge(omittedDesc, float64(len(dumped)-len(vms)))
}

// vmTotals are the dumps of each VM.
type vmTotals map[string]vmTotal

type vmTotal struct {
	dumps, bytes total
	sized        bool // some dump has a size
}

func (t vmTotals) Merge(other vmTotals) (vmTotals, error) {
	merged := make(vmTotals, max(len(t), len(other)))
	for _, side := range []vmTotals{t, other} {
		for vmid, more := range side {
			sum, err := merged[vmid].plus(more)
			if err != nil {
				return nil, err
			}
			merged[vmid] = sum
		}
	}
	return merged, nil
}

func (t vmTotal) plus(more vmTotal) (vmTotal, error) {
	count, err := t.dumps.Merge(more.dumps)
	if err != nil {
		return vmTotal{}, err
	}
	bytes, err := t.bytes.Merge(more.bytes)
	return vmTotal{count, bytes, t.sized || more.sized}, err
}

func (t vmTotals) empty() bool { return len(t) == 0 }

func addVMTotal(t vmTotals, row influx.Row) (vmTotals, error) {
	vmid := row.Tags["vmid"] // that of nobody's dumps is empty, and never asked for
	var more vmTotal
	var err error
	if more.dumps, _, err = countIfAny(row, "dumps"); err != nil {
		return nil, err
	}
	if more.bytes, more.sized, err = countIfAny(row, "bytes"); err != nil {
		return nil, err
	}
	if t == nil {
		t = make(vmTotals)
	}
	sum, err := t[vmid].plus(more)
	t[vmid] = sum
	return t, err
}
