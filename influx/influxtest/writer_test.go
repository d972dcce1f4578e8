package influxtest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWriter_hides_the_token(t *testing.T) {
	const token = "s3cr3t"
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, r.Header.Get("Authorization"), strings.Repeat(" no", 1000))
	}))
	defer echo.Close()
	for _, base := range []string{echo.URL, "http://u:" + token + "@127.0.0.1:1", "http://u:" + token + "@127.0.0.1:x"} {
		w := Writer{URL: base, Token: token}
		for _, err := range []error{w.Exec(t.Context(), "SHOW DATABASES"), w.Write(t.Context(), "d", []string{"m x=1i 1"})} {
			if err == nil || strings.Contains(err.Error(), token) || len(err.Error()) > 400 {
				t.Errorf("want a short error without the token, got %v", err)
			}
		}
	}
}
