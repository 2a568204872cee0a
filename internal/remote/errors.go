package remote

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"gantry/internal/errs"
)

// ErrNoCredentials: the registry wants a password, and there is none.
var ErrNoCredentials = errors.New("no basic auth credentials")

// Codes of the distribution specification that callers tell apart.
const (
	CodeUnauthorized    = "UNAUTHORIZED"
	CodeDenied          = "DENIED"
	CodeNameUnknown     = "NAME_UNKNOWN"
	CodeManifestUnknown = "MANIFEST_UNKNOWN"
	CodeTooMany         = "TOOMANYREQUESTS"
)

// Error is a registry's refusal.
type Error struct {
	Status  int
	Code    string // the specification's; empty if the reply had none
	Message string
	host    string
	after   time.Duration // Retry-After
	quota   string
}

// Error says it as Docker does: "manifest unknown: manifest unknown".
func (e *Error) Error() string {
	text := e.Message
	if e.Code != "" {
		text = strings.ToLower(strings.ReplaceAll(e.Code, "_", " "))
		if e.Message != "" {
			text += ": " + e.Message
		}
	}
	if text == "" {
		text = fmt.Sprintf("received unexpected HTTP status: %d %s", e.Status, http.StatusText(e.Status))
	}
	if e.quota != "" {
		text += " (" + e.quota + ")"
	}
	if e.Status == http.StatusTooManyRequests && e.after > 0 {
		text += "; it can be tried again in " + e.after.Round(time.Second).String()
	}
	return text
}

// maxErrorBody bounds what is read of a refusal.
const maxErrorBody = 64 << 10

// replyError reads a refusal, and the reply's body.
func replyError(resp *http.Response) *Error {
	e := &Error{Status: resp.StatusCode, quota: quota(resp.Header), after: retryAfter(resp.Header, time.Now())}
	if resp.Request != nil {
		e.host = resp.Request.URL.Host
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // token servers'
		Message string `json:"message"`
		Error   string `json:"error_description"`
	}
	if json.Unmarshal(data, &body) == nil {
		if len(body.Errors) > 0 {
			e.Code, e.Message = clean(body.Errors[0].Code), clean(body.Errors[0].Message)
		} else {
			e.Message = clean(cmp.Or(body.Details, body.Message, body.Error))
		}
	} else if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		e.Message = clean(strings.TrimSpace(string(data)))
	}
	if e.Code == "" && resp.Request != nil && e.Status == http.StatusNotFound && strings.Contains(resp.Request.URL.Path, "/manifests/") {
		e.Code = CodeManifestUnknown // to HEAD there is no body
		e.Message = cmp.Or(e.Message, "manifest unknown")
	}
	return e
}

// clean keeps a foreign text from becoming lines and control sequences on a terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "") + "…"
	}
	return s
}

// kind gives a refusal its kind.
func (e *Error) kind() error {
	switch {
	case e.Status == http.StatusUnauthorized:
		return errs.Unauthorized.Wrap(e)
	case e.Status == http.StatusForbidden:
		return errs.Forbidden.Wrap(e)
	case e.Status == http.StatusNotFound:
		return errs.NotFound.Wrap(e)
	case e.Status == http.StatusTooManyRequests || e.Status >= 500:
		return errs.Unavailable.Wrap(e)
	}
	return errs.Invalid.Wrap(e)
}

// unauthorizedError is a 401 in Docker's words.
func unauthorizedError(e *Error, shown bool) error {
	if e.Message == "" && e.Code == "" {
		if shown {
			return errors.New("unauthorized: incorrect username or password")
		}
		return errors.New("unauthorized: authentication required")
	}
	return e
}

// As returns the registry's refusal that err comes of, or nil.
func As(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// hint adds a second line to Docker's words: what mends it.
type hint struct {
	err  error
	line string
}

func (h *hint) Error() string { return h.err.Error() + "\n" + h.line }
func (h *hint) Unwrap() error { return h.err }

var (
	errSilent = errors.New("the registry has sent nothing for too long")
	errSlow   = errors.New("the registry sends next to nothing")
	errStuck  = errors.New("the registry has taken nothing for too long")
)

// explainNet gives an error of the way to a registry its kind, and a line that mends it.
func explainNet(ctx context.Context, err error, host string) error {
	if err == nil || errs.KindOf(err) != errs.Internal {
		return err
	}
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var dns *net.DNSError
	var proxy *net.OpError
	var invalid x509.CertificateInvalidError
	var refused *proxyError
	var via *viaError
	if at := (*url.Error)(nil); errors.As(err, &at) { // behind a redirect it is another one
		if u, bad := url.Parse(at.URL); bad == nil && u.Host != "" {
			host = u.Host
		}
	}
	line := ""
	switch text := err.Error(); {
	case errors.As(err, &proxy) && proxy.Op == "proxyconnect":
		at := ""
		if dial := (*net.OpError)(nil); errors.As(proxy.Err, &dial) && dial.Addr != nil {
			at = " " + dial.Addr.String()
		}
		line = fmt.Sprintf("The proxy%s does not let us through: see proxies in daemon.json, and HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the engine", at)
	case errors.As(err, &refused) && refused.status == http.StatusProxyAuthRequired:
		line = fmt.Sprintf("The proxy %s wants a user and a password: write them into its URL, http://USER:PASSWORD@%[1]s, in proxies of daemon.json, or in HTTP_PROXY and HTTPS_PROXY of the engine", refused.host)
	case errors.As(err, &refused):
		line = fmt.Sprintf("The proxy %s answered %s: see proxies in daemon.json, and HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the engine", refused.host, refused.said)
	case errors.As(err, &via) && brokenOff(err):
		line = fmt.Sprintf("The way to %s goes through the proxy %s, and broke off: see proxies in daemon.json, and HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the engine", host, via.proxy)
	case errors.Is(err, io.ErrUnexpectedEOF):
		line = fmt.Sprintf("The registry %s broke the connection off. What came of layers is kept: do it again, and it goes on from there", host)
	case speaksPlain(err):
		line = fmt.Sprintf("%s speaks plain HTTP. If the way there can be trusted, put this into daemon.json: \"insecure-registries\": [%q]", host, host)
	case strings.Contains(text, "malformed HTTP response \"\\x15\\x03"):
		line = fmt.Sprintf("%s speaks HTTPS: write https:// instead of http://", host)
	case errors.As(err, &authority):
		line = fmt.Sprintf("The certificate of %s is signed by nobody this machine knows: put the authority's into /etc/gantry/certs.d/%s/ca.crt", host, host)
	case errors.As(err, &name):
		line = fmt.Sprintf("The certificate of %s is for other names: use one of them, or have it made for this one", host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && time.Now().After(invalid.Cert.NotAfter):
		line = fmt.Sprintf("The certificate of %s was good until %s: whoever runs it has it made anew; if that day is to come, set this machine's clock", host, invalid.Cert.NotAfter.UTC().Format(time.DateOnly))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		line = fmt.Sprintf("The certificate of %s is good from %s on: is this machine's clock right?", host, invalid.Cert.NotBefore.UTC().Format(time.DateTime))
	case strings.Contains(text, "remote error: tls: certificate required"):
		line = fmt.Sprintf("%s wants a certificate of ours: put it into /etc/gantry/certs.d/%[1]s/client.cert, and its key beside it into client.key", host)
	case errors.Is(err, syscall.ECONNREFUSED):
		line = fmt.Sprintf("Nothing listens at %s: is the registry running, and is that its port?", host)
		if other := listening(ctx, host); other != "" {
			line = fmt.Sprintf("Nothing listens at %s, but at %s: write %[2]s/NAME", host, other)
		}
	case errors.As(err, &dns) && dns.IsNotFound:
		line = fmt.Sprintf("There is no host %s: check the spelling, and this machine's DNS", dns.Name)
	}
	if line != "" {
		err = &hint{err, line}
	}
	return errs.Unavailable.Wrap(err)
}

// brokenOff reports whether err is what comes of a connection whose other end closed it.
func brokenOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// lookAround bounds the search for who else listens on a host, its name's look-up included.
const lookAround = time.Second

// listening looks for who else listens on a host, at the ports that registries have.
func listening(ctx context.Context, hostport string) string {
	ctx, cancel := context.WithTimeout(ctx, lookAround)
	defer cancel()
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	for _, port := range []string{"5000", "443"} {
		if other := net.JoinHostPort(host, port); other != hostport {
			d := net.Dialer{Timeout: 300 * time.Millisecond}
			if c, err := d.DialContext(ctx, "tcp", other); err == nil {
				c.Close()
				return other
			}
		}
	}
	return ""
}

// lasting reports whether trying again at once can't help.
func lasting(err error) bool {
	var record tls.RecordHeaderError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	var refused *proxyError
	var dns *net.DNSError
	text := err.Error()
	return errors.As(err, &record) || errors.As(err, &authority) || errors.As(err, &name) || errors.As(err, &invalid) || errors.As(err, &verify) ||
		strings.Contains(text, "remote error: tls: ") || errors.As(err, &refused) && refused.status < 500 || errors.As(err, &dns) && !dns.IsTemporary || errors.Is(err, syscall.ECONNREFUSED) ||
		errors.Is(err, http.ErrSchemeMismatch) || strings.Contains(text, "malformed HTTP response")
}
