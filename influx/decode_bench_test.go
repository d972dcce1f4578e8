package influx_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// BenchmarkRows queries over loopback: one row, and one for each VM.
func BenchmarkRows(b *testing.B) {
	for _, vms := range []int{0, 100, 1000} {
		b.Run(fmt.Sprint(vms, " series"), func(b *testing.B) {
			body := whole
			if vms > 0 {
				var columns, values strings.Builder
				for i := range 35 { // as vm_totals has
					fmt.Fprintf(&columns, `,"some_number_%d"`, i)
					fmt.Fprintf(&values, `,%d`, 123456*i)
				}
				var series []string
				for vm := range vms {
					series = append(series, fmt.Sprintf(`{"name":"vm_totals","tags":{"VMID":"%d","name":"vm-%d","uuid":"u%d"},`+
						`"columns":["time"%s],"values":[[1762857000000000000%s]]}`, vm, vm, vm, columns.String(), values.String()))
				}
				body = `{"results":[{"statement_id":0,"series":[` + strings.Join(series, ",") + `]}]}`
			}
			url := influxtest.Handle(b, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
			transport := influx.NewTransport(nil)
			defer transport.CloseIdleConnections()
			client, err := influx.New(influx.Config{URL: url, Database: "db", Transport: transport})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				rows, err := count(context.Background(), client, 0)
				if err != nil || rows != max(1, vms) {
					b.Fatal(rows, err)
				}
			}
		})
	}
}
