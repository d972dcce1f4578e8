package influx

// API is a way to ask.
type API string

const (
	// APIAuto is InfluxQL, unless what answers is no InfluxDB and has no /query.
	APIAuto API = "auto"
	// APIInfluxQL is /query, which InfluxDB 1.x, 2.x and 3.x serve.
	// https://docs.influxdata.com/influxdb3/core/query-data/execute-queries/influxdb-v1-api/
	APIInfluxQL API = "influxql"
	// APIV3Query is /api/v3/query?db=&q=, SQL in and the JSON of InfluxDB 1.x out. No
	// InfluxDB serves it: it is that of a gateway in front of one.
	APIV3Query API = "v3-query"
)

var apis = []API{APIAuto, APIInfluxQL, APIV3Query}

// API returns which API to ask: the configured one, or what was found. APIAuto means
// that what answers does not present itself as InfluxDB: where /query is not found,
// APIV3Query may be asked, and is returned from then on if it answers.
func (c *Client) API() API {
	switch {
	case c.config.API != APIAuto:
		return c.config.API
	case c.gateway.Load():
		return APIV3Query
	}
	if known := c.server.Load(); known != nil && known.Major == 0 {
		return APIAuto
	}
	return APIInfluxQL
}
