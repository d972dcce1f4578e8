// Command servers lists the InfluxDB servers that tests can use here, and builds those first that the user's cache does
// not hold. What each is built from is in the modules beside it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"memdump_exporter/influx/influxtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stdout, progress io.Writer) error {
	specs, missing, err := influxtest.Available(ctx, progress)
	if err != nil {
		return err
	}
	for _, spec := range specs {
		where := spec.Path
		if spec.Remote() {
			where = "elsewhere"
		}
		fmt.Fprintf(stdout, "InfluxDB %s\t%s\n", spec.Name, where)
	}
	for _, line := range missing {
		fmt.Fprintln(stdout, "left out:", line)
	}
	return nil
}
