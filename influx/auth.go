package influx

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// Secret returns a token or a password when a request needs it, so that it can change while
// the process runs. Its error must name the source of the secret and must not hold it.
type Secret func() (string, error)

// Scheme is the authentication scheme of the header Authorization.
type Scheme string

// SchemeAuto is Basic for a user, and for a token the one that the server accepts.
const (
	SchemeAuto   Scheme = "auto"
	SchemeBasic  Scheme = "Basic"
	SchemeToken  Scheme = "Token"
	SchemeBearer Scheme = "Bearer"
)

var schemes = []Scheme{SchemeAuto, SchemeBasic, SchemeToken, SchemeBearer}

// tokenUser is the user name of a token that is sent as Basic: 2.x and 3.x accept any
// (influxtest: recording auth).
const tokenUser = "token"

// secrets must not appear in an error.
type secrets []string

func (s secrets) redact(text string) string {
	for _, secret := range s {
		if secret != "" {
			quoted := strconv.Quote(secret)
			text = strings.ReplaceAll(text, quoted[1:len(quoted)-1], "<secret>")
			text = strings.ReplaceAll(text, secret, "<secret>")
		}
	}
	return text
}

// redactError removes the secrets from the text of an error and limits its length: libraries
// quote input that they can't read.
func (s secrets) redactError(err error) error {
	if err == nil {
		return nil
	}
	text := s.redact(err.Error())
	if len(text) > maxErrorLength {
		text = strings.ToValidUTF8(text[:maxErrorLength], "\uFFFD") + "…"
	}
	if text == err.Error() {
		return err
	}
	return &redactedError{text, err}
}

// maxErrorLength limits the text of an error, in bytes.
const maxErrorLength = 1024

type redactedError struct {
	text  string
	cause error
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.cause }

// authorize sets the header Authorization and returns the secrets in it.
func (c *Client) authorize(req *http.Request) (secrets, error) {
	var secret string
	read := c.config.Token
	if c.config.Username != "" {
		read = c.config.Password
	}
	if read != nil {
		var err error
		if secret, err = read(); err != nil {
			return nil, &Error{Kind: ErrCredentials, Err: err}
		}
	}
	user := c.config.Username
	if user == "" && secret == "" {
		return nil, nil
	}
	// net/http would reject it later, with an error about a header.
	if strings.ContainsFunc(user+secret, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, &Error{Kind: ErrCredentials, Err: errors.New("the credentials contain a control character, such as a line feed")}
	}
	scheme, credentials := c.scheme(secret), secret
	if user != "" {
		credentials = user + ":" + secret
	}
	if scheme == SchemeBasic {
		if !strings.Contains(credentials, ":") {
			credentials = tokenUser + ":" + credentials
		}
		credentials = base64.StdEncoding.EncodeToString([]byte(credentials))
	}
	req.Header.Set("Authorization", string(scheme)+" "+credentials)
	return secrets{credentials, secret}, nil
}

// scheme is the one that the server takes (influxtest: recording auth): 2.x takes
// "Token" and refuses "Bearer"; 3.x takes both; 1.x takes "Token user:password", or a
// JWT as "Bearer"; a user goes out as Basic everywhere.
func (c *Client) scheme(token string) Scheme {
	switch {
	case c.config.Scheme != SchemeAuto:
		return c.config.Scheme
	case c.config.Username != "":
		return SchemeBasic
	}
	if known := c.server.Load(); known != nil &&
		(known.Major == 2 || known.Major == 1 && strings.Contains(token, ":")) {
		return SchemeToken
	}
	return SchemeBearer
}
