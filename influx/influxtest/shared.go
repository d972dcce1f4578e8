package influxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// Shared is one server for the tests of a package, as a start takes more than most tests
// do. The zero value is ready; tests that stop a server start one of their own.
type Shared struct {
	once   sync.Once
	server *Server
	dir    string
	err    error
}

// Server returns the server, which has no database; what the test makes is dropped at its
// end.
func (s *Shared) Server(tb testing.TB) *Server {
	tb.Helper()
	s.once.Do(s.start)
	if s.err != nil {
		tb.Fatal(s.err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.server.empty(ctx); err != nil {
			tb.Error(err)
		}
	})
	return s.server
}

func (s *Shared) start() {
	spec, err := Default(context.Background(), os.Stderr)
	if err != nil {
		s.err = err
		return
	}
	if s.dir, s.err = os.MkdirTemp("", "influxtest-"); s.err == nil {
		s.server, s.err = spec.Start(context.Background(), s.dir)
	}
}

// Stop ends the server, where a test has used it. It is for the end of TestMain.
func (s *Shared) Stop() error {
	if s.server == nil {
		return nil
	}
	return errors.Join(s.server.Stop(), os.RemoveAll(s.dir))
}

// Tests are those of a package with a Shared server, which has stopped when Run returns: whoever
// looks for leaks then finds none of it.
type Tests struct {
	*testing.M
	Server *Shared
}

// Run runs the tests and returns the exit code, which is not 0 either when the server can't be
// stopped.
func (t Tests) Run() int {
	code := t.M.Run()
	if err := t.Server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// empty drops all databases.
func (s *Server) empty(ctx context.Context) error {
	rows, err := s.Query(ctx, "", "SHOW DATABASES")
	if err != nil {
		return fmt.Errorf("list the databases: %w", err)
	}
	for _, row := range rows {
		if err := s.DropDatabase(ctx, fmt.Sprint(row.Values...)); err != nil {
			return err
		}
	}
	return nil
}
