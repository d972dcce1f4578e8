package collector

import "testing"

// TestQuery_foreignResponse: a response to another statement, as a cache with a wrong key returns
// it, gives no value.
func TestQuery_foreignResponse(t *testing.T) {
	responses := map[string]string{
		"days":                rowsOf(`"time","dumps","compressed"`, `[1762857000000000000,41,7]`),
		"all columns but one": rowsOf(`"time","sum","count"`, `[0,10,4]`),
	}
	for _, j := range judgedQueries {
		responses[j.query] = j.good
	}
	for _, target := range judgedQueries {
		for name, response := range responses {
			if name == target.query {
				continue
			}
			t.Run(target.query+" gets "+name, func(t *testing.T) {
				var logged lines
				got := fuzzedScrape(t, &logged, 0, target.query, 200, response, "1.8.10")
				got.wantValue(t, 0, "memdump_query_success", "query", target.query)
				got.wantValue(t, 1, "memdump_query_errors_total", "query", target.query, "reason", "malformed")
				for _, m := range queryNamed(target.query).metrics {
					got.wantAbsent(t, m.name)
				}
			})
		}
	}
}
