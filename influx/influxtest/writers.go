package influxtest

import (
	"fmt"
	"maps"
	"time"
)

// The measurements that the writers write.
const (
	Dumps          = "mem_dumps"
	Telemetry      = "vm_totals"
	OlderTelemetry = "vm_metrics"
	Devices        = "vm_devices"
	Features       = "vm_features"
)

// Dumper is a writer of dumps.
type Dumper int

// The writers of dumps.
const (
	DumpProgram Dumper = iota // the older one: compresses dumps, records no raw size and no host, dumps running VMs only
	DumpService               // the newer one: does not compress dumps, records raw size and host
)

// Collector is a writer of telemetry.
type Collector int

// The writers of telemetry.
const (
	DashboardCollector  Collector = iota // vm_totals, vm_devices and vm_features with VMID, name, uuid
	StandAloneCollector                  // vm_totals and vm_devices with VMID, Dom, UUID
	OlderCollector                       // vm_metrics with VMID, name, uuid; its state is a string
)

// number returns an integer in the type that the writers of this world use.
func (w *World) number(n int64) any {
	if w.config.Floats {
		return float64(n)
	}
	return n
}

// record returns the point of a dump, and sets VMID, Host and sizes of the dump to those of the point.
func (w *World) record(d *Dump, h *host, loop int64, every time.Duration) Point {
	w.started++
	end, duration := d.Start.Add(d.Duration), d.Duration.Seconds()
	raw := (2 + w.rng.Int64N(31)) << 30
	compressed := raw/5 + w.rng.Int64N(raw/4)
	sha := fmt.Sprintf("%016x%016x%016x%016x", w.rng.Uint64(), w.rng.Uint64(), w.rng.Uint64(), w.rng.Uint64())
	path := fmt.Sprintf("/var/dumps/%s_%s.mem", d.VMID, d.Start.UTC().Format("20060102T150405Z"))
	if w.config.odd && w.started%193 == 50 {
		d.VMID = ""
	}
	p := Point{Measurement: Dumps, Tags: map[string]string{"dom": d.Domain, "vmid": d.VMID}, TimeNs: d.Start.UnixNano()}
	switch {
	case w.config.odd && h.dumper == DumpProgram && w.started%11 == 5:
		// An old script writes the domain name as vmid.
		d.VMID, d.CompressedBytes = d.Domain, compressed
		p.Tags = map[string]string{"vmid": d.VMID}
		p.Fields = map[string]any{"sha256": sha, "duration_sec": duration, "gzip_size_bytes": compressed}
	case h.dumper == DumpProgram:
		d.CompressedBytes = compressed
		p.Fields = map[string]any{
			"sha256": sha, "duration_sec": duration, "gzip_size_bytes": compressed,
			"ctime": end.Unix(), "mtime": end.Unix(), "atime": d.Start.Unix(), "dump_path": path + ".gz",
		}
	default:
		d.Host, d.RawBytes = h.name, raw
		p.Tags["host"] = h.name
		p.Fields = map[string]any{
			"ok": true, "sha256": sha, "dump_path": path, "raw_size_bytes": w.number(raw),
			"ctime": w.number(end.Unix()), "mtime": w.number(end.Unix()), "atime": w.number(d.Start.Unix()),
			"duration_sec": duration, "dump_duration_sec": duration,
			"loop": w.number(loop), "every_sec": w.number(int64(every / time.Second)),
		}
	}
	if w.config.odd && w.started%257 == 100 {
		delete(p.Fields, "sha256") // a record that is no dump
	}
	return p
}

// telemetry returns the points that a collector writes of a run; devices and features only if all is true.
func (w *World) telemetry(c Collector, uuid string, r Run, at time.Time, all bool) []Point {
	lower := map[string]string{"VMID": r.VMID, "name": r.Name, "uuid": uuid}
	upper := map[string]string{"VMID": r.VMID, "Dom": r.Name, "UUID": uuid}
	uptime := int64(at.Sub(r.From) / time.Second)
	point := func(measurement string, tags map[string]string, fields map[string]any) Point {
		return Point{Measurement: measurement, Tags: tags, Fields: fields, TimeNs: at.UnixNano()}
	}
	devices := func(tags map[string]string) []Point {
		var points []Point
		for _, device := range [][2]string{{"disk", "vda"}, {"nic", "vnet" + r.VMID}} {
			deviceTags := maps.Clone(tags)
			deviceTags["devtype"], deviceTags["device"] = device[0], device[1]
			traffic := map[string]any{"rxbytes": w.number(uptime * 100), "txbytes": w.number(uptime * 70)}
			points = append(points, point(Devices, deviceTags, traffic))
		}
		return points
	}
	var points []Point
	switch c {
	case DashboardCollector:
		points = append(points, point(Telemetry, lower, map[string]any{
			"state": w.number(1), "cpus": w.number(2), "cputime": w.number(uptime * 4e8),
			"net_rxbytes": w.number(uptime * 100), "mem_actual": w.number(4 << 20),
		}))
		if all {
			points = append(points, point(Features, lower, map[string]any{"cpu_rate": float64(w.rng.IntN(400)) / 4}))
			points = append(points, devices(lower)...)
		}
	case StandAloneCollector:
		points = append(points, point(Telemetry, upper, map[string]any{
			"cpu_percent": float64(w.rng.IntN(400)) / 4, "mem_used": w.number(3 << 20),
		}))
		if all {
			points = append(points, devices(upper)...)
		}
	case OlderCollector:
		points = append(points, point(OlderTelemetry, lower, map[string]any{
			"state": "running", "cpu_count": w.number(2), "memory_max_kb": w.number(4 << 20),
		}))
	}
	return points
}
