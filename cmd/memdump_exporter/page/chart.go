package page

import (
	"time"

	"memdump_exporter/collector"
)

// chart has a bar for each day.
type chart struct {
	Title, Most string // Most is the value of the highest bar
	Bars        []bar
}

// bar is a rectangle in the units of the chart's view box.
type bar struct {
	X, Y, Height float64
	Title        string
}

const (
	chartHeight = 100.0
	barDistance = 10.0
)

// charts returns the dumps per day and, where a writer has recorded sizes, the bytes per day.
func charts(days []collector.Day) []chart {
	var mostDumps, mostBytes int64
	for _, d := range days {
		mostDumps, mostBytes = max(mostDumps, d.Dumps), max(mostBytes, d.CompressedBytes)
	}
	dumps := chart{Title: "Dumps per day", Most: separated(float64(mostDumps))}
	sizes := chart{Title: "Compressed size per day", Most: inBytes(float64(mostBytes))}
	for i, row := range dayRows(days) {
		dumps.Bars = append(dumps.Bars, newBar(i, days[i].Dumps, mostDumps, row.Date+": "+row.Dumps))
		sizes.Bars = append(sizes.Bars, newBar(i, days[i].CompressedBytes, mostBytes, row.Date+": "+row.Size))
	}
	if mostBytes == 0 {
		return []chart{dumps}
	}
	return []chart{dumps, sizes}
}

func newBar(i int, value, most int64, title string) bar {
	height := chartHeight * float64(value) / float64(max(1, most))
	return bar{X: float64(i) * barDistance, Y: chartHeight - height, Height: height, Title: title}
}

// dayRow is a row of the table of days.
type dayRow struct {
	Date, Dumps, Size string
	Bytes             int64
}

func dayRows(days []collector.Day) []dayRow {
	var rows []dayRow
	for _, d := range days {
		rows = append(rows, dayRow{
			Date: d.Start.Format(time.DateOnly), Dumps: separated(float64(d.Dumps)),
			Size: inBytes(float64(d.CompressedBytes)), Bytes: d.CompressedBytes,
		})
	}
	return rows
}
