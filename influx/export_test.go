package influx

// ServerError is the error of a response with this status and body.
func ServerError(status int, body []byte) error { return serverError(status, errorText(body), nil) }

// Columns returns the columns of a row.
func Columns(r Row) []string { return r.columns }
