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

// Shared is one server for all tests of a package, because a start takes longer than most
// tests. The zero value is ready. Tests that stop a server must start another one.
type Shared struct {
	once   sync.Once
	server *Server
	dir    string
	err    error
}

// Server returns the server, which has no database. The databases that a test creates are
// dropped at its end.
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

// Stop ends the server if a test has started it. It is for the end of TestMain.
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
