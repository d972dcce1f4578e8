package collector

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/influx"
)

// perVMQueries are the queries for the metrics per VM.
var perVMQueries = []query{
	{
		name:     vmTotals,
		source:   dumps,
		columns:  totalsColumns,
		tail:     `GROUP BY "vmid","dom"`,
		fields:   []field{sha256, {summedFields[compressedBytes], numeric}},
		optional: true,
		add:      addRunTotals,
		empty:    func(a *aggregate) bool { return len(a.runs) == 0 },
		maxBytes: maxRunsBytes,
	},
	{
		name:     vmPlaces,
		source:   dumps,
		columns:  `"sha256"::field AS "sha256", "host"::tag AS "host"`,
		tail:     `GROUP BY "vmid","dom" ORDER BY time DESC LIMIT 1`,
		fields:   []field{sha256},
		add:      addPlace,
		empty:    func(a *aggregate) bool { return len(a.runs) == 0 },
		maxBytes: maxRunsBytes,
	},
}

const totalsColumns = `COUNT("sha256"::field) AS "dumps", SUM("gzip_size_bytes"::field) AS "compressed", ` +
	`SUM("raw_size_bytes"::field) AS "raw", SUM("duration_sec"::field) AS "seconds", COUNT("duration_sec"::field) AS "timed"`

func addRunTotals(a *aggregate, row influx.Row) error {
	n, compressed, err := dumpsAndBytes(row)
	if err != nil {
		return err
	}
	more := runTotals{dumps: n}
	more.setSize(compressed)
	a.addRun(run{row.Tags["vmid"], row.Tags["dom"]}, more)
	return nil
}

func addPlace(a *aggregate, row influx.Row) error {
	ns, err := row.Time()
	a.addRun(run{row.Tags["vmid"], row.Tags["dom"]}, runTotals{dumped: true, newest: ns, host: text(row, "host")})
	return err
}

// perVMMetrics are the metrics of each VM. Only one of them has runtime ID and host as labels, so
// that a restart or a migration of the VM starts no new series of the others. The value function
// returns the labels after dom, and false if the VM has no value.
var perVMMetrics = []struct {
	desc  *prometheus.Desc
	value func(vmSeries) (value float64, labels []string, ok bool)
}{
	{
		prometheus.NewDesc("memdump_vm_last_dump_timestamp_seconds",
			"Start time of the newest memory dump of the VM in seconds since 1970.", []string{"dom"}, nil),
		func(vm vmSeries) (float64, []string, bool) { return seconds(vm.last), nil, true },
	},
	{
		prometheus.NewDesc("memdump_vm_dumps", "Number of memory dumps of the VM.", []string{"dom"}, nil),
		func(vm vmSeries) (float64, []string, bool) { return float64(vm.totals.dumps), nil, vm.totals.dumps > 0 },
	},
	{
		prometheus.NewDesc("memdump_vm_dumps_compressed_bytes",
			"Total compressed size of the VM's memory dumps (gzip_size_bytes) in bytes.", []string{"dom"}, nil),
		func(vm vmSeries) (float64, []string, bool) {
			return float64(vm.totals.compressed), nil, vm.totals.hasSize && !vm.totals.badSize && vm.totals.compressed >= 0
		},
	},
	{
		prometheus.NewDesc("memdump_vm_info",
			"Runtime ID and host of the VM's newest memory dump; the value is always 1.", []string{"dom", "vmid", "host"}, nil),
		func(vm vmSeries) (float64, []string, bool) {
			return 1, []string{vm.place.vmid, vm.place.host}, vm.place.dumped
		},
	},
}

var omittedDesc = prometheus.NewDesc("memdump_vms_omitted",
	"Number of dumped VMs without metrics of their own: beyond --collect.per-vm.limit, or with a name that is not UTF-8.", nil, nil)

// vmSeries is what the metrics of one VM are read from.
type vmSeries struct {
	dom           string
	last          int64        // time of the newest dump, in nanoseconds since 1970
	totals, place domainTotals // zero where their query has no result for the VM
}

// perVM sends the metrics of the most recently dumped VMs, and none if the query for the dumped
// VMs failed.
func (b *batch) perVM(gauge func(*prometheus.Desc, float64, ...string)) {
	dumped := b.aggregateOf(dumpedVMs)
	if b.exporter.config.PerVM == 0 || dumped == nil {
		return
	}
	var totals, places map[string]domainTotals
	if a := b.aggregateOf(vmTotals); a != nil {
		totals = a.domains()
	}
	if a := b.aggregateOf(vmPlaces); a != nil {
		places = a.domains()
	}
	all := dumped.domains()
	var vms []vmSeries
	for name, newest := range all {
		if newest.dumped && !isAmbiguous(name) {
			vms = append(vms, vmSeries{name, newest.newest, totals[name], places[name]})
		}
	}
	slices.SortFunc(vms, func(a, b vmSeries) int {
		return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(a.dom, b.dom))
	})
	vms = vms[:min(len(vms), b.exporter.config.PerVM)]
	for _, m := range perVMMetrics {
		for _, vm := range vms {
			if value, labels, ok := m.value(vm); ok {
				gauge(m.desc, value, append([]string{vm.dom}, labels...)...)
			}
		}
	}
	gauge(omittedDesc, float64(len(dumped.dumpedDomains())-len(vms)))
}
