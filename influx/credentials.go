package influx

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// Secret returns a secret at the time it is needed, so that it can change while
// the process runs. Its error must name where the secret was looked for, and must
// not hold it.
type Secret func() (string, error)

// Scheme is how credentials are sent.
type Scheme string

// SchemeAuto is Basic for a user, and for a token what the server takes; the others
// are sent as they are named.
const (
	SchemeAuto   Scheme = "auto"
	SchemeBasic  Scheme = "Basic"
	SchemeToken  Scheme = "Token"
	SchemeBearer Scheme = "Bearer"
)

var schemes = []Scheme{SchemeAuto, SchemeBasic, SchemeToken, SchemeBearer}

// tokenUser stands for the user where a token goes out as Basic: 2.x and 3.x take
// any (influxtest: recording auth).
const tokenUser = "token"

// secrets are what must not come back in an error.
type secrets []string

func (s secrets) hide(text string) string {
	for _, secret := range s {
		if secret != "" {
			quoted := strconv.Quote(secret)
			text = strings.ReplaceAll(text, quoted[1:len(quoted)-1], "<secret>")
			text = strings.ReplaceAll(text, secret, "<secret>")
		}
	}
	return text
}

// cover hides the secrets in an error, and bounds it: libraries quote in theirs what
// they could not read.
func (s secrets) cover(err error) error {
	if err == nil {
		return nil
	}
	text := s.hide(err.Error())
	if len(text) > maxCoveredText {
		text = strings.ToValidUTF8(text[:maxCoveredText], "\uFFFD") + "…"
	}
	if text == err.Error() {
		return err
	}
	return &coveredError{text, err}
}

// maxCoveredText bounds what is said of a failure, in bytes.
const maxCoveredText = 1024

type coveredError struct {
	text  string
	cause error
}

func (e *coveredError) Error() string { return e.text }
func (e *coveredError) Unwrap() error { return e.cause }

// authorize sets the header and returns the secrets that it sends.
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
	// What net/http would refuse later, in words about a header.
	if strings.ContainsFunc(user+secret, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, &Error{Kind: ErrCredentials, Err: errors.New("a control character, such as a line's end, in the credentials")}
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
