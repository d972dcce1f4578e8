package influx

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// TestDescribe: a token is described by its type and never by its text.
func TestDescribe(t *testing.T) {
	body := strings.NewReader(`{"results":[{"series":[{"tags":{"foreign":1}}]}]}`)
	if err := decodeResponse(&limitedReader{r: body, left: 100}, http.StatusOK, nil, nil); err == nil || strings.Contains(err.Error(), "foreign") {
		t.Error(err)
	}
	for want, token := range map[string]json.Token{`"{"`: json.Delim('{'), "a string": "x", "a json.Number": json.Number("5"), "a <nil>": nil} {
		if got := describe(token); got != want {
			t.Errorf("%v: %s, want %s", token, got, want)
		}
	}
}
