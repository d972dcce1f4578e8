package influx

// ServerError is how an answer with this status and body is read.
func ServerError(status int, body []byte) error { return serverError(status, refusalText(body), nil) }
