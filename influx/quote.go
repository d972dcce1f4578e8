package influx

import "strings"

var (
	identEscaper  = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	stringEscaper = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`)
)

// Ident quotes a measurement, field or tag for InfluxQL.
// https://docs.influxdata.com/influxdb/v1/query_language/spec/#identifiers
func Ident(name string) string {
	return `"` + identEscaper.Replace(name) + `"`
}

// String quotes a string value for InfluxQL.
// https://docs.influxdata.com/influxdb/v1/query_language/spec/#strings
func String(text string) string {
	return `'` + stringEscaper.Replace(text) + `'`
}
