package influx

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// Secret returns a token or a password when a request needs it, so that it can change while
// the process is running. Its error must name the source of the secret and must not contain it.
type Secret func() (string, error)

// Scheme is the authentication scheme of the header Authorization.
type Scheme string

// SchemeAuto is Basic for a user, Bearer for a JWT, and Token for any other token.
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
// quote input that they can't parse.
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

// scheme returns the configured scheme, or one that every InfluxDB accepts (influxtest:
// recording auth): Basic for a user; Bearer for a JWT, which 1.x accepts in no other way; Token
// for any other token, including user:password on 1.7 and later. 2.x rejects Bearer.
func (c *Client) scheme(token string) Scheme {
	switch {
	case c.config.Scheme != SchemeAuto:
		return c.config.Scheme
	case c.config.Username != "":
		return SchemeBasic
	case isJWT(token):
		return SchemeBearer
	}
	return SchemeToken
}

// isJWT reports whether a token is a signed JSON Web Token (RFC 7519, RFC 7515): three
// base64url parts, the first of which is a JSON object with the signature's algorithm.
func isJWT(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	var header map[string]any
	for i, part := range parts {
		decoded, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil || i == 0 && json.Unmarshal(decoded, &header) != nil {
			return false
		}
	}
	_, ok := header["alg"]
	return ok
}
