package influx

import "strings"

// Ident quotes a measurement, field or tag for InfluxQL.
// https://docs.influxdata.com/influxdb/v1/query_language/spec/#identifiers
func Ident(name string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(name) + `"`
}

// String quotes a string value for InfluxQL.
// https://docs.influxdata.com/influxdb/v1/query_language/spec/#strings
func String(text string) string {
	return `'` + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`).Replace(text) + `'`
}
