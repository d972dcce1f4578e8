package influxtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// CreateDatabase creates an empty database. On 2.x it is a bucket, whose name is the database of /query.
func (w *Writer) CreateDatabase(ctx context.Context, name string) error {
	var err error
	switch w.Major {
	case 1:
		err = w.Exec(ctx, "CREATE DATABASE "+identifier(name))
	case 2:
		err = w.createBucket(ctx, name)
	case 3:
		err = w.doJSON(ctx, http.MethodPost, "/api/v3/configure/database", map[string]any{"db": name}, nil)
	default:
		err = w.Exec(ctx, "CREATE DATABASE "+identifier(name))
		if err == nil {
			break
		}
		bucketErr := w.createBucket(ctx, name)
		if bucketErr == nil {
			return nil
		}
		err = fmt.Errorf("%w; %w", err, bucketErr)
	}
	if err != nil {
		return fmt.Errorf("create the database %s: %w", name, err)
	}
	return nil
}

// DropDatabase removes a database and its points.
func (w *Writer) DropDatabase(ctx context.Context, name string) error {
	var err error
	switch w.Major {
	case 2:
		var b bucket
		if b, err = w.bucket(ctx, name); err == nil {
			err = w.doJSON(ctx, http.MethodDelete, "/api/v2/buckets/"+url.PathEscape(b.ID), nil, nil)
		}
	case 3:
		err = w.doJSON(ctx, http.MethodDelete, "/api/v3/configure/database?"+url.Values{"db": {name}}.Encode(), nil, nil)
	default:
		err = w.Exec(ctx, "DROP DATABASE "+identifier(name))
	}
	if err != nil {
		return fmt.Errorf("drop the database %s: %w", name, err)
	}
	return nil
}

// Delete removes the points of a measurement with fromNs <= time < toNs. On InfluxDB 3 Core, which can't delete points, the
// error is errors.ErrUnsupported.
func (w *Writer) Delete(ctx context.Context, database, measurement string, fromNs, toNs int64) error {
	var err error
	switch w.Major {
	case 3:
		err = errors.ErrUnsupported
	case 2:
		var b bucket
		if b, err = w.bucket(ctx, database); err != nil {
			break
		}
		// stop is inclusive.
		path := "/api/v2/delete?" + url.Values{"orgID": {b.OrgID}, "bucketID": {b.ID}}.Encode()
		err = w.doJSON(ctx, http.MethodPost, path, map[string]any{
			"start":     time.Unix(0, fromNs).UTC().Format(time.RFC3339Nano),
			"stop":      time.Unix(0, toNs-1).UTC().Format(time.RFC3339Nano),
			"predicate": "_measurement=" + identifier(measurement),
		}, nil)
	default:
		err = w.ExecIn(ctx, database, fmt.Sprintf("DELETE FROM %s WHERE time >= %d AND time < %d", identifier(measurement), fromNs, toNs))
	}
	if err != nil {
		return fmt.Errorf("delete from %s: %w", measurement, err)
	}
	return nil
}

// ReadToken creates credentials that may read one database and nothing else. On InfluxDB 3 Core, where each token has all
// permissions, the error is errors.ErrUnsupported.
func (w *Writer) ReadToken(ctx context.Context, database string) (token string, err error) {
	switch w.Major {
	case 1:
		const user, password = "reader", "reader-secret"
		if err = w.Exec(ctx, fmt.Sprintf("CREATE USER %s WITH PASSWORD '%s'", user, password)); err == nil {
			err = w.Exec(ctx, fmt.Sprintf("GRANT READ ON %s TO %s", identifier(database), user))
		}
		token = user + ":" + password
	case 2:
		var b bucket
		if b, err = w.bucket(ctx, database); err != nil {
			break
		}
		var created struct {
			Token string `json:"token"`
		}
		err = w.doJSON(ctx, http.MethodPost, "/api/v2/authorizations", map[string]any{
			"orgID": b.OrgID, "description": "influxtest",
			"permissions": []any{map[string]any{"action": "read", "resource": map[string]any{"type": "buckets", "id": b.ID, "orgID": b.OrgID}}},
		}, &created)
		token = created.Token
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return "", fmt.Errorf("create credentials that may read %s: %w", database, err)
	}
	return token, nil
}

// Query returns the rows of an InfluxQL statement that reads only, with times in nanoseconds since 1970. database may be
// empty.
func (w *Writer) Query(ctx context.Context, database, statement string) ([]ResponseRow, error) {
	form := url.Values{"q": {statement}, "epoch": {"ns"}}
	if database != "" {
		form.Set("db", database)
	}
	var body json.RawMessage
	if err := w.do(ctx, http.MethodGet, "/query?"+form.Encode(), "", nil, &body); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	rows, err := ReadResponse(body)
	if err != nil {
		return nil, fmt.Errorf("query: %w: %s", err, w.clean(string(body)))
	}
	return rows, nil
}

// bucket is a bucket of InfluxDB 2.x.
type bucket struct {
	ID    string `json:"id"`
	OrgID string `json:"orgID"`
}

// bucket returns the bucket with a name, which the token must be allowed to read.
func (w *Writer) bucket(ctx context.Context, name string) (bucket, error) {
	var found struct {
		Buckets []bucket `json:"buckets"`
	}
	if err := w.doJSON(ctx, http.MethodGet, "/api/v2/buckets?"+url.Values{"name": {name}}.Encode(), nil, &found); err != nil {
		return bucket{}, fmt.Errorf("find the bucket: %w", err)
	}
	if len(found.Buckets) != 1 {
		return bucket{}, fmt.Errorf("find the bucket: there are %d of this name", len(found.Buckets))
	}
	return found.Buckets[0], nil
}

// createBucket creates a bucket without an end of retention, in the organization whose buckets the token may read.
func (w *Writer) createBucket(ctx context.Context, name string) error {
	var found struct {
		Buckets []bucket `json:"buckets"`
	}
	if err := w.doJSON(ctx, http.MethodGet, "/api/v2/buckets?limit=100", nil, &found); err != nil {
		return fmt.Errorf("find the organization: %w", err)
	}
	organizations := map[string]bool{}
	for _, b := range found.Buckets {
		organizations[b.OrgID] = true
	}
	if len(organizations) != 1 {
		return fmt.Errorf("find the organization: the token may read the buckets of %d", len(organizations))
	}
	err := w.doJSON(ctx, http.MethodPost, "/api/v2/buckets", map[string]any{
		"orgID": found.Buckets[0].OrgID, "name": name, "retentionRules": []any{},
	}, nil)
	if err != nil {
		return fmt.Errorf("create the bucket: %w", err)
	}
	return nil
}

// identifier quotes a name for InfluxQL and for the predicates of /api/v2/delete.
func identifier(name string) string { return `"` + stringEscaper.Replace(name) + `"` }
