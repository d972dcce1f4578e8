// Command plain is an exporter as promhttp's default handler makes it: each scrape makes its own
// requests and encodes its own response. make load measures ours beside it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// statements are those of our exporter.
var statements = map[string]string{
	"memdump_dumps":                       `SELECT COUNT("sha256"::field) AS "dumps" FROM "mem_dumps"`,
	"memdump_dumped_vms":                  `SELECT LAST("sha256"::field) AS "newest" FROM "mem_dumps" GROUP BY "vmid","dom"`,
	"memdump_dumps_compressed_bytes":      `SELECT SUM("gzip_size_bytes"::field) AS "compressed" FROM "mem_dumps"`,
	"memdump_dumps_raw_bytes":             `SELECT SUM("raw_size_bytes"::field) AS "raw" FROM "mem_dumps"`,
	"memdump_dump_duration_mean_seconds":  `SELECT MEAN("duration_sec"::field) AS "mean" FROM "mem_dumps"`,
	"memdump_last_dump_timestamp_seconds": `SELECT "sha256"::field AS "last" FROM "mem_dumps" ORDER BY time DESC LIMIT 1`,
	"memdump_monitored_vms":               `SELECT *::field FROM "vm_info","vm_totals","vm_metrics" GROUP BY * ORDER BY time DESC LIMIT 1`,
}

type collector struct {
	url    string
	client http.Client
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	var queries sync.WaitGroup
	for name, statement := range statements {
		queries.Go(func() {
			desc := prometheus.NewDesc(name, "The value that InfluxDB returns.", nil, nil)
			value, err := c.query(statement)
			if err != nil {
				ch <- prometheus.NewInvalidMetric(desc, err)
				return
			}
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
		})
	}
	queries.Wait()
}

func (c *collector) query(statement string) (float64, error) {
	resp, err := c.client.Get(c.url + "/query?" + url.Values{"db": {"vmstats"}, "epoch": {"ns"}, "q": {statement}}.Encode())
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var response struct {
		Results []struct{ Series []struct{ Values [][]any } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&response); err != nil {
		return 0, err
	}
	if len(response.Results) != 1 || len(response.Results[0].Series) == 0 {
		return 0, fmt.Errorf("no series")
	}
	value, _ := response.Results[0].Series[0].Values[0][1].(float64)
	return value, nil
}

func main() {
	influxdb := flag.String("influx.url", "", "")
	inFlight := flag.Int("in-flight", 0, "0 for any number")
	flag.Parse()
	registry := prometheus.NewRegistry()
	// A transport like the default one, without the bound that ours has.
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&collector{*influxdb, http.Client{Transport: transport, Timeout: 10 * time.Second}})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "msg=\"Listening on\" address=%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: *inFlight})))
}
