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

// CreateDatabase makes an empty database: on 2.x a bucket, which /query finds by its name as the database.
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

// Delete removes the points of a measurement with fromNs <= time < toNs. InfluxDB 3 Core has no such thing: the error is
// errors.ErrUnsupported.
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
		// Its stop is included.
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

// ReadToken makes credentials that may read one database and nothing else. On InfluxDB 3 Core each token may do
// everything: the error is errors.ErrUnsupported.
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
		var made struct {
			Token string `json:"token"`
		}
		err = w.doJSON(ctx, http.MethodPost, "/api/v2/authorizations", map[string]any{
			"orgID": b.OrgID, "description": "influxtest",
			"permissions": []any{map[string]any{"action": "read", "resource": map[string]any{"type": "buckets", "id": b.ID, "orgID": b.OrgID}}},
		}, &made)
		token = made.Token
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return "", fmt.Errorf("make credentials that may read %s: %w", database, err)
	}
	return token, nil
}

// Query returns the rows of an InfluxQL statement that only reads, in a database or, when that is empty, in none; times
// in nanoseconds since 1970.
func (w *Writer) Query(ctx context.Context, database, statement string) ([]AnswerRow, error) {
	form := url.Values{"q": {statement}, "epoch": {"ns"}}
	if database != "" {
		form.Set("db", database)
	}
	var answer json.RawMessage
	if err := w.do(ctx, http.MethodGet, "/query?"+form.Encode(), "", nil, &answer); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	rows, err := ReadAnswer(answer)
	if err != nil {
		return nil, fmt.Errorf("query: %w: %s", err, w.clean(string(answer)))
	}
	return rows, nil
}

// bucket is one of InfluxDB 2.x.
type bucket struct {
	ID    string `json:"id"`
	OrgID string `json:"orgID"`
}

// bucket finds a bucket by its name. A token that may not read it does not see it.
func (w *Writer) bucket(ctx context.Context, name string) (bucket, error) {
	var answer struct {
		Buckets []bucket `json:"buckets"`
	}
	if err := w.doJSON(ctx, http.MethodGet, "/api/v2/buckets?"+url.Values{"name": {name}}.Encode(), nil, &answer); err != nil {
		return bucket{}, fmt.Errorf("find the bucket: %w", err)
	}
	if len(answer.Buckets) != 1 {
		return bucket{}, fmt.Errorf("find the bucket: there are %d of this name", len(answer.Buckets))
	}
	return answer.Buckets[0], nil
}

// createBucket makes a bucket that keeps its points for ever, in the organization whose buckets the token may read.
func (w *Writer) createBucket(ctx context.Context, name string) error {
	var answer struct {
		Buckets []bucket `json:"buckets"`
	}
	if err := w.doJSON(ctx, http.MethodGet, "/api/v2/buckets?limit=100", nil, &answer); err != nil {
		return fmt.Errorf("find the organization: %w", err)
	}
	organizations := map[string]bool{}
	for _, b := range answer.Buckets {
		organizations[b.OrgID] = true
	}
	if len(organizations) != 1 {
		return fmt.Errorf("find the organization: the token may read the buckets of %d", len(organizations))
	}
	err := w.doJSON(ctx, http.MethodPost, "/api/v2/buckets", map[string]any{
		"orgID": answer.Buckets[0].OrgID, "name": name, "retentionRules": []any{},
	}, nil)
	if err != nil {
		return fmt.Errorf("make the bucket: %w", err)
	}
	return nil
}

// identifier is a name as InfluxQL and the predicates of /api/v2/delete quote it.
func identifier(name string) string { return `"` + stringEscaper.Replace(name) + `"` }
