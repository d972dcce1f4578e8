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
	err := decodeResponse(&limitedReader{r: body, left: 100}, http.StatusOK, nil, nil)
	if err == nil || strings.Contains(err.Error(), "foreign") {
		t.Errorf("%v, want an error without the text of the response", err)
	}
	for token, want := range map[json.Token]string{
		json.Delim('{'): `"{"`, "x": "a string", json.Number("5"): "a json.Number", nil: "a <nil>",
	} {
		if got := describe(token); got != want {
			t.Errorf("%v: %s, want %s", token, got, want)
		}
	}
}
