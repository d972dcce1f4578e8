package main

import (
	"time"

	"memdump_exporter/collector"
)

// column is one bar of a chart, in the units of its view box.
type column struct {
	X, Y, Height float64
	Title        string
}

const (
	chartHeight = 100.0
	columnWidth = 10.0
)

// dayValue is a day's "dumps" or "bytes".
func dayValue(d collector.Day, what string) int64 {
	if what == "bytes" {
		return d.CompressedBytes
	}
	return d.Dumps
}

func busiest(days []collector.Day, what string) (most int64) {
	for _, d := range days {
		most = max(most, dayValue(d, what))
	}
	return most
}

func said(value int64, what string) string {
	if what == "bytes" {
		return inBytes(float64(value))
	}
	return separated(float64(value))
}

// chartColumns are the bars of "dumps" or "bytes" per day, the tallest as high as the chart.
func chartColumns(days []collector.Day, what string) (columns []column) {
	most := max(1, busiest(days, what))
	for i, d := range days {
		height := chartHeight * float64(dayValue(d, what)) / float64(most)
		columns = append(columns, column{
			X: float64(i) * columnWidth, Y: chartHeight - height, Height: height,
			Title: d.Start.Format(time.DateOnly) + ": " + said(dayValue(d, what), what),
		})
	}
	return columns
}
