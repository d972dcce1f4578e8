package collector

import (
	"bytes"
	"net/http"
	"strconv"
)

// form is a whole answer, kept to be given to any number of scrapes. It is an
// http.ResponseWriter.
type form struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (f *form) Header() http.Header         { return f.header }
func (f *form) WriteHeader(status int)      { f.status = status }
func (f *form) Write(p []byte) (int, error) { return f.body.Write(p) }

func (f *form) writeTo(w http.ResponseWriter) {
	for name, values := range f.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(f.body.Len()))
	w.WriteHeader(f.status)
	_, _ = w.Write(f.body.Bytes()) // fails when the scraper has left
}
