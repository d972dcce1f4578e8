package logqueue

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestWriter_order(t *testing.T) {
	var log bytes.Buffer
	w := New(&log)
	want := ""
	for i := range 100 {
		line := fmt.Sprintf("line %d\n", i)
		want += line
		fmt.Fprint(w, line)
	}
	w.Close()
	if log.String() != want {
		t.Errorf("the log is %q", log.String())
	}
	if dropped := testutil.ToFloat64(w.Dropped); dropped != 0 {
		t.Errorf("%v lines were dropped", dropped)
	}
}

// TestWriter_stuck: where nobody reads, Write and Close return, and what does not fit is counted.
func TestWriter_stuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unread, pipe := io.Pipe()
		w := New(pipe)
		fmt.Fprintln(w, "the one that is being written")
		synctest.Wait()
		for range maxLines + 3 {
			fmt.Fprintln(w, "a line")
		}
		if dropped := testutil.ToFloat64(w.Dropped); dropped != 3 {
			t.Errorf("%v lines were dropped, want 3", dropped)
		}
		begin := time.Now()
		w.Close()
		if took := time.Since(begin); took != closeTimeout {
			t.Errorf("Close took %v", took)
		}
		unread.Close()
	})
}
