package collector

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"memdump_exporter/influx"
)

const (
	// joinWithin is how young a run must be for a scrape to join it. It bounds how much
	// older than the scrape an answer can be, and for how long a run that hangs draws
	// others in.
	joinWithin = time.Second
	// writeGrace is how long a scraper may take to read its answer.
	writeGrace = 5 * time.Second
	// mostForms is how many answers of a run are kept for those who wait for it.
	mostForms = 8
)

// flight serves /metrics. Scrapes that overlap share one run of the queries and one
// encoded answer; nothing outlives the run.
type flight struct {
	*Collector
	HandlerConfig

	mu      sync.Mutex
	current *run // the one that a scrape may join; nil when there is none
}

func (f *flight) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	budget := f.budget(r.Header)
	// It fails where the writer has no connection, as in a test.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(budget + writeGrace))
	patience := time.After(budget)
	run := f.join(time.Now().Add(budget))
	late := false
	select {
	case <-run.done:
	case <-patience:
		late = true
	case <-r.Context().Done():
	}
	answer := run.answer(r, late)
	f.leave(run, late)
	answer().writeTo(w)
}

// join returns the run that answers a scrape, which waits until a time at most.
func (f *flight) join(until time.Time) *run {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.current
	if r == nil || time.Since(r.began) >= joinWithin {
		r = f.start(until)
		f.current = r
	} else {
		f.joined.Inc()
	}
	r.waiting++
	r.lease.extend(until)
	return r
}

// leave ends a run for which nobody waits any more, done or not. No later scrape can join it.
func (f *flight) leave(r *run, late bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.waiting--; r.waiting > 0 {
		return
	}
	if f.current == r {
		f.current = nil
	}
	cause := context.Canceled
	if late {
		cause = context.DeadlineExceeded
	}
	r.cancel(cause)
}

// lease is a context that ends when those who wait for it have left. Its deadline is
// that of the most patient of them.
type lease struct {
	context.Context
	mu    sync.Mutex
	until time.Time
}

func (l *lease) extend(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until.After(l.until) {
		l.until = until
	}
}

// Deadline never is that of the embedded context, which has none.
func (l *lease) Deadline() (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until, true
}

// run is one run of the queries.
type run struct {
	*flight
	began   time.Time
	lease   *lease
	cancel  context.CancelCauseFunc
	waiting int           // guarded by the flight
	done    chan struct{} // closed when every query has ended

	mu      sync.Mutex
	server  influx.Server
	now     time.Time
	answers []*answer // nil while not given
	missed  []bool    // a scrape has given up waiting for it, which is noted
	forms   map[formKey]func() *form
}

// formKey tells one answer of a run from another: what was known, whether what was not counts
// as a failure, and what the request says of the form.
type formKey struct {
	answered         int
	late             bool
	accept, encoding string
}

// start begins a run. The flight is locked.
func (f *flight) start(until time.Time) *run {
	ctx, cancel := context.WithCancelCause(context.Background())
	r := &run{
		flight:  f,
		began:   time.Now(),
		lease:   &lease{Context: ctx, until: until},
		cancel:  cancel,
		done:    make(chan struct{}),
		answers: make([]*answer, len(f.figures)),
		missed:  make([]bool, len(f.figures)),
		forms:   make(map[formKey]func() *form),
	}
	go func() {
		r.ask()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.current == r { // what is done serves nobody who comes later
			f.current = nil
		}
		close(r.done)
	}()
	return r
}

// ask runs the queries of the table side by side.
func (r *run) ask() {
	var shared *scrape
	err := contain(func() error {
		started, server := r.begin(r.lease)
		shared = started
		r.mu.Lock()
		defer r.mu.Unlock()
		r.server, r.now = server, started.now
		return nil
	})
	var queries sync.WaitGroup
	for i, f := range r.figures {
		queries.Go(func() {
			a := answer{err: err}
			if err == nil {
				a = r.Collector.ask(shared, f)
			}
			r.give(i, a)
		})
	}
	queries.Wait()
}

// give takes the answer of one query, and notes it unless its failure to come has been.
func (r *run) give(i int, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[i] = &a
	if a.err == nil || !r.missed[i] {
		r.note(r.figures[i], a, r.Now())
	}
}

// answer returns the answer to a scrape by what is known by now, encoded once for all that
// get the same. To a scrape whose time is over, a query that has not answered has failed;
// that is noted once, however many scrapes say so.
func (r *run) answer(request *http.Request, late bool) func() *form {
	r.mu.Lock()
	defer r.mu.Unlock()
	answered := 0
	answers := make([]answer, len(r.answers))
	for i, a := range r.answers {
		if a != nil {
			answers[i] = *a
			answered++
			continue
		}
		answers[i] = answer{err: fmt.Errorf("%w: no answer within the time of the scrape", influx.ErrTimeout), took: time.Since(r.began)}
		if late && !r.missed[i] {
			r.missed[i] = true
			r.note(r.figures[i], answers[i], r.Now())
		}
	}
	key := formKey{answered, late, request.Header.Get("Accept"), request.Header.Get("Accept-Encoding")}
	encode, ok := r.forms[key]
	if !ok {
		s := sample{r.Collector, r.server, r.now, answers}
		encode = sync.OnceValue(func() *form { return r.encode(s, request) })
		if len(r.forms) < mostForms {
			r.forms[key] = encode
		}
	}
	return encode
}

func (r *run) encode(s sample, request *http.Request) *form {
	f := &form{header: make(http.Header), status: http.StatusOK}
	err := contain(func() error {
		registry := prometheus.NewRegistry()
		registry.MustRegister(s)
		promhttp.HandlerFor(prometheus.Gatherers{r.Self, registry}, promhttp.HandlerOpts{
			ErrorLog:          r.ErrorLog,
			ErrorHandling:     promhttp.ContinueOnError,
			Registry:          r.Self,
			EnableOpenMetrics: true,
		}).ServeHTTP(f, request)
		return nil
	})
	if err != nil {
		r.logFailure(err, true, "msg", "encoding the metrics failed")
		f = &form{header: make(http.Header)}
		http.Error(f, defectText, http.StatusInternalServerError)
	}
	return f
}
