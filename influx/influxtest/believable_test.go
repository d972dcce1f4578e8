package influxtest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestBelievable(t *testing.T) {
	now := worldStart
	if !slices.Equal(Believable(1, now).Lines(), Believable(1, now).Lines()) {
		t.Error("equal seeds, different points")
	}
	if slices.Equal(Believable(1, now).Lines(), Believable(2, now).Lines()) {
		t.Error("different seeds, equal points")
	}
	for seed := range uint64(13) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			h := Believable(seed, now)
			truth := h.Truth(now.UnixNano(), day)
			quiet := time.Duration(now.UnixNano() - truth.LastDumpNs)
			if truth.Dumps < 4000 || truth.DurationCount <= truth.Dumps || !truth.Sized || !truth.RawSized || quiet < 10*time.Minute {
				t.Errorf("hardly both writers' six weeks: %+v", truth)
			}
			monitored := h.MonitoredDomains(now.UnixNano(), day)
			if later := h.MonitoredDomains(now.Add(time.Hour).UnixNano(), day); !reflect.DeepEqual(later, monitored) {
				t.Errorf("an hour of waiting changes %+v\nto %+v", monitored, later)
			}
			if shared := monitored.Shared(); len(shared) > 0 {
				t.Errorf("names of two VMs: %q", shared)
			}
			if len(monitored) < 29 || truth.MonitoredVMs >= len(monitored) || truth.DumpedDomains <= len(monitored) {
				t.Errorf("want some 30 VMs, fewer numbers, and dumps of VMs that are gone: %+v", truth)
			}
			count := map[string]int{}
			for _, vm := range monitored {
				age := time.Duration(now.UnixNano() - vm.LastNs)
				switch {
				case !vm.Dumped:
					count["never dumped "+vm.Name]++
				case age > 3*day:
					count["overdue "+vm.Name]++
				case age > 20*time.Hour:
					t.Errorf("%s has been dumped %v ago", vm.Name, age)
				}
				if len(vm.VMIDs) > 1 {
					count["restarted"]++
				}
				if len(vm.Names) > 1 {
					count["renamed"]++
				}
			}
			if count["never dumped jump-host"] != 1 || truth.NeverDumped != 1 {
				t.Errorf("never dumped is not jump-host alone: %v", count)
			}
			if count["overdue legacy-erp"] != 1 || monitored.Overdue(now.UnixNano(), day) != 1 {
				t.Errorf("overdue is not legacy-erp alone: %v", count)
			}
			if count["restarted"] < 5 || count["renamed"] == 0 {
				t.Errorf("too few restarted or renamed: %v", count)
			}

			seen := map[int64]string{}
			vms := map[string]map[string]bool{} // domains by vmid
			for _, p := range h.Points(Dumps) {
				dom, vmid := p.Tags["dom"], p.Tags["vmid"]
				if other, ok := seen[p.TimeNs]; ok && other != dom {
					count["equal times"]++
				}
				seen[p.TimeNs] = dom
				switch {
				case vmid == "":
					count["without vmid"]++
				case dom == "":
					count["without dom"]++
				case dom == vmid:
					count["shut off"]++
				}
				if p.Fields["sha256"] == nil {
					count["no dump"]++
				}
				if vms[vmid] == nil {
					vms[vmid] = map[string]bool{}
				}
				vms[vmid][dom] = true
			}
			for _, what := range []string{"equal times", "without vmid", "without dom", "shut off", "no dump"} {
				if count[what] == 0 {
					t.Errorf("no dump of the kind %s", what)
				}
			}
			if len(vms["1"]) < 5 {
				t.Errorf("%d domains have been dumped as number 1", len(vms["1"]))
			}
		})
	}
}

func TestHistory_live(t *testing.T) {
	now := worldStart
	h := Believable(1, now)
	before := h.Truth(now.UnixNano(), day)
	running := 0
	for _, v := range h.world.VMs() {
		if _, ok := v.At(now); ok {
			running++
		}
	}
	now = now.Add(30 * time.Hour)
	restarted, from, to := h.LiveRestart(now)
	if restarted == "" || from == to {
		t.Errorf("%q restarts, and is %s after %s", restarted, to, from)
	}
	telemetry := h.LiveTelemetry(now)
	after := h.Truth(now.UnixNano(), time.Hour)
	if after.MonitoredDomains != running {
		t.Errorf("want telemetry of %d VMs, got %d points: %+v", running, len(telemetry), after)
	}
	for range 150 {
		dump := h.LiveDump(now)
		if len(dump) != 1 || dump[0].TimeNs >= now.UnixNano() {
			t.Fatalf("not a dump of before now: %v", dump)
		}
		if dom := dump[0].Tags["dom"]; dom == "jump-host" || dom == "legacy-erp" || dom == restarted {
			t.Fatalf("%s is dumped, which is not meant to be or has just restarted", dom)
		}
	}
	after = h.Truth(now.UnixNano(), time.Hour)
	if after.Dumps < before.Dumps+149 || after.LastDumpNs <= before.LastDumpNs || after.DumpedDomains != before.DumpedDomains {
		t.Errorf("before %+v\n after %+v", before, after)
	}
	h.DeleteTelemetry(now.UnixNano())
	if got := h.Truth(now.UnixNano(), 100*day); got.MonitoredDomains != running || got.Dumps != after.Dumps {
		t.Errorf("of now are %d VMs and %d dumps, after deleting what is older: %+v", running, after.Dumps, got)
	}

	var other History
	if domain, _, _ := other.LiveRestart(now); len(other.LiveTelemetry(now))+len(other.LiveDump(now)) != 0 || domain != "" {
		t.Error("a history of nobody goes on")
	}
}
