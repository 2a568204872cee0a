package registry

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

type action uint8

const (
	actionPull action = 1 << iota
	actionPush
	actionDelete
	actionAdmin
)

var actions = map[string]action{"pull": actionPull, "push": actionPush, "delete": actionDelete, "admin": actionAdmin}

// identity is who asks.
type identity struct {
	// user is empty for somebody who did not log in.
	user string
	// token limits what the client may do to what it asked for at the token endpoint.
	token *claims
	// local says that the request comes from this machine.
	local bool
}

// authority decides who somebody is and what they may do.
type authority struct {
	cfg   Auth
	off   bool
	users *htpasswd
	rules []rule
	key   ed25519.PrivateKey

	// hashing bounds how many passwords are checked at a time: bcrypt is slow on purpose, and nobody may use that to
	// take all processors away.
	hashing chan struct{}
	cacheMu sync.Mutex
	cache   map[[32]byte]time.Time
	salt    [32]byte
}

type rule struct {
	users, repositories []string
	allow               action
}

func newAuthority(cfg Auth, st Storage) (*authority, error) {
	a := &authority{cfg: cfg, off: cfg.Htpasswd == "" && len(cfg.Rules) == 0, cache: map[[32]byte]time.Time{},
		hashing: make(chan struct{}, max(1, runtime.NumCPU()/2))}
	rand.Read(a.salt[:])
	if a.off {
		return a, nil
	}
	for _, r := range cfg.Rules {
		var allow action
		for _, name := range r.Allow {
			allow |= actions[name]
		}
		a.rules = append(a.rules, rule{r.Users, r.Repositories, allow})
	}
	if len(cfg.Rules) == 0 {
		a.rules = []rule{{[]string{"*"}, []string{"**"}, actionPull | actionPush | actionDelete | actionAdmin}}
	}
	if cfg.Htpasswd != "" {
		var err error
		if a.users, err = openHtpasswd(cfg.Htpasswd); err != nil {
			return nil, err
		}
	}
	// The key stays in the storage, so that a restart does not cost clients their tokens.
	seed, _, err := readSmall(st, "keys/token", 64)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(seed) != ed25519.SeedSize {
		seed = make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		err = st.Put("keys/token", seed)
	}
	if err != nil {
		return nil, err
	}
	a.key = ed25519.NewKeyFromSeed(seed)
	return a, nil
}

// rights are what the rules give a user in a repository.
func (a *authority) rights(user, repo string) action {
	if a.off {
		return actionPull | actionPush | actionDelete
	}
	var got action
	for _, r := range a.rules {
		if matchAny(r.repositories, repo) && slices.ContainsFunc(r.users, func(u string) bool {
			return u == "anonymous" || user != "" && (u == "*" || u == user)
		}) {
			got |= r.allow
		}
	}
	return got
}

// may reports whether the rules let who do it. It does not look at what a token was asked for: that is for the
// repository of the request alone (allow).
func (a *authority) may(who identity, repo string, act action) bool {
	return a.rights(who.user, repo)&act == act
}

// mayAdmin reports whether who runs this registry: by rule, or, where nobody logs in, from this machine.
func (a *authority) mayAdmin(who identity) bool {
	if a.off {
		return who.local
	}
	if who.token != nil { // it was asked for to pull or push, and may lie with whoever does that
		return false
	}
	return slices.ContainsFunc(a.rules, func(r rule) bool {
		return r.allow&actionAdmin != 0 && who.user != "" && (slices.Contains(r.users, who.user) || slices.Contains(r.users, "*"))
	})
}

// identify finds out who asks, from the Authorization header.
func (a *authority) identify(w http.ResponseWriter, r *http.Request, rt route) (identity, error) {
	who := identity{}
	if a.off {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		ip := net.ParseIP(host)
		// What a proxy on this host passes on comes from elsewhere.
		passed := r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != ""
		who.local = err == nil && ip != nil && ip.IsLoopback() && !passed
		return who, nil
	}
	header := r.Header.Get("Authorization")
	switch scheme, rest, _ := strings.Cut(header, " "); {
	case header == "":
		// The ping is how clients learn that one can log in here at all.
		if rt.kind == routePing || rt.kind == routeCollect {
			return who, a.challenge(w, r, "", "")
		}
	case strings.EqualFold(scheme, "Basic"):
		user, pass, ok := r.BasicAuth()
		if !ok || !a.verify(user, pass) {
			return who, a.challenge(w, r, "", "incorrect username or password")
		}
		who.user = user
	case strings.EqualFold(scheme, "Bearer"):
		c, err := verifyToken(a.key.Public().(ed25519.PublicKey), strings.TrimSpace(rest), time.Now())
		if err != nil {
			return who, a.challenge(w, r, scopeOf(r, rt), "invalid token")
		}
		who.user, who.token = c.Subject, c
	default:
		return who, a.challenge(w, r, "", "")
	}
	return who, nil
}

// needed is what a request on a repository takes.
func needed(r *http.Request, rt route) action {
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		if rt.kind == routeUpload {
			return actionPush
		}
		return actionPull
	case r.Method == http.MethodDelete && rt.kind != routeUpload:
		return actionDelete
	}
	return actionPush
}

func scopeOf(r *http.Request, rt route) string {
	if rt.repo == "" || !validName(rt.repo) {
		return ""
	}
	switch needed(r, rt) {
	case actionPull:
		return "repository:" + rt.repo + ":pull"
	case actionDelete:
		return "repository:" + rt.repo + ":delete"
	}
	scope := "repository:" + rt.repo + ":pull,push"
	if from := r.URL.Query().Get("from"); rt.kind == routeUploads && from != rt.repo && validName(from) { // a blob is to be mounted
		scope += " repository:" + from + ":pull"
	}
	return scope
}

// allow holds a request against the rules.
func (a *authority) allow(w http.ResponseWriter, r *http.Request, who identity, rt route) error {
	if a.off {
		return nil
	}
	act := needed(r, rt)
	byRule := a.may(who, rt.repo, act)
	if byRule && (who.token == nil || who.token.allows(rt.repo, act)) {
		return nil
	}
	switch {
	case who.user == "":
		return a.challenge(w, r, scopeOf(r, rt), "")
	case byRule:
		// A token for less than this: the client asks for another.
		return a.challenge(w, r, scopeOf(r, rt), "the token is not for this")
	}
	return &apiError{http.StatusForbidden, "DENIED", "requested access to the resource is denied",
		map[string]string{"name": rt.repo, "user": who.user}}
}

// challenge asks the client to log in, the way it should (RFC 7235; for tokens, Docker's token specification).
func (a *authority) challenge(w http.ResponseWriter, r *http.Request, scope, why string) error {
	message := "authentication required"
	if why != "" {
		message += ": " + why
	}
	if a.cfg.Mode == "basic" {
		w.Header().Set("WWW-Authenticate", `Basic realm="Gantry registry"`)
		return fail(http.StatusUnauthorized, "UNAUTHORIZED", "%s", message)
	}
	base, service := a.cfg.URL, ""
	if base == "" {
		scheme := "http"
		if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
			scheme = "https"
		}
		base = scheme + "://" + quotable(r.Host)
	}
	_, service, _ = strings.Cut(base, "://")
	h := `Bearer realm="` + strings.TrimSuffix(base, "/") + `/token",service="` + service + `"`
	if scope != "" {
		h += `,scope="` + scope + `"`
	}
	if why != "" && strings.HasPrefix(r.Header.Get("Authorization"), "Bearer") {
		e := "invalid_token"
		if why == "the token is not for this" {
			e = "insufficient_scope"
		}
		h += `,error="` + e + `"`
	}
	w.Header().Set("WWW-Authenticate", h)
	return fail(http.StatusUnauthorized, "UNAUTHORIZED", "%s", message)
}

// quotable leaves of a Host header what a host can have.
func quotable(host string) string {
	return strings.Map(func(c rune) rune {
		if c == '"' || c == '\\' || c <= ' ' || c > '~' {
			return -1
		}
		return c
	}, host)
}

// verify checks a password. What was right is right again for a few minutes, for bcrypt costs tens of milliseconds
// and a pull has many requests.
func (a *authority) verify(user, pass string) bool {
	if a.users == nil || len(pass) > 1024 {
		return false
	}
	hash, known := a.users.get(user)
	mac := hmac.New(sha256.New, a.salt[:])
	for _, s := range [][]byte{[]byte(user), []byte(pass), hash} {
		mac.Write([]byte(hex.EncodeToString(s)))
		mac.Write([]byte{0})
	}
	var key [32]byte
	mac.Sum(key[:0])
	now := time.Now()
	a.cacheMu.Lock()
	until, cached := a.cache[key]
	a.cacheMu.Unlock()
	if cached && now.Before(until) {
		return true
	}
	a.hashing <- struct{}{}
	defer func() { <-a.hashing }()
	if !known {
		hash = nobody // the same time for a user that does not exist
	}
	p := []byte(pass)
	if len(p) > 72 {
		p = p[:72] // what htpasswd(1) hashed of it
	}
	if bcrypt.CompareHashAndPassword(hash, p) != nil || !known {
		return false
	}
	a.cacheMu.Lock()
	if len(a.cache) >= 4096 {
		clear(a.cache)
	}
	a.cache[key] = now.Add(5 * time.Minute)
	a.cacheMu.Unlock()
	return true
}

// nobody is the hash of a password that was thrown away (cost 10).
var nobody = []byte("$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy")

// token answers Docker's token requests: GET with a password, and POST with one in a form (OAuth 2, RFC 6749 4.3).
func (s *Server) token(w *response, r *http.Request) error {
	a := s.authority()
	if a.off {
		return fail(http.StatusNotFound, "UNSUPPORTED", "nobody needs a token here")
	}
	var user, pass string
	var given bool
	q := r.URL.Query()
	switch r.Method {
	case http.MethodGet:
		user, pass, given = r.BasicAuth()
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			return fail(http.StatusBadRequest, "UNSUPPORTED", "invalid form")
		}
		q = r.PostForm
		if q.Get("grant_type") != "password" {
			return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "grant_type %.50q: want password", q.Get("grant_type"))
		}
		user, pass, given = q.Get("username"), q.Get("password"), true
	default:
		return notAllowed(w, "GET, POST")
	}
	if given && !a.verify(user, pass) {
		w.Header().Set("WWW-Authenticate", `Basic realm="Gantry registry"`)
		return fail(http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
	}
	if !given {
		user = ""
	}
	c := claims{Issuer: tokenIssuer, Subject: user, Audience: q.Get("service"), ID: newUploadID()}
	if len(c.Audience) > 255 {
		return fail(http.StatusBadRequest, "UNSUPPORTED", "invalid service")
	}
	for _, scope := range q["scope"] {
		for one := range strings.FieldsSeq(scope) {
			repo, acts, ok := parseScope(one)
			names := one == catalogScope || one == "registry:catalog:search" // the latter is Docker's search
			if !ok && !names {
				continue
			}
			if len(c.Access) >= 32 {
				return fail(http.StatusBadRequest, "UNSUPPORTED", "too many scopes")
			}
			if names { // which ones is decided at the request
				c.Access = append(c.Access, access{Type: "registry", Name: "catalog", Actions: []string{"*"}})
				continue
			}
			rights := a.rights(user, repo)
			got := []string{}
			for _, name := range []string{"pull", "push", "delete"} {
				if act := actions[name]; acts&act != 0 && rights&act != 0 {
					got = append(got, name)
				}
			}
			c.Access = append(c.Access, access{Type: "repository", Name: repo, Actions: got})
		}
	}
	now := time.Now()
	life := time.Duration(a.cfg.TokenLife)
	c.NotBefore, c.IssuedAt, c.Expires = now.Unix()-10, now.Unix(), now.Add(life).Unix()
	t := signToken(a.key, c)
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, "application/json", map[string]any{
		"token": t, "access_token": t, "token_type": "Bearer", "expires_in": int(life.Seconds()),
		"issued_at": now.UTC().Format(time.RFC3339), "scope": strings.Join(q["scope"], " "),
	})
}

// parseScope understands "repository:NAME:pull,push". A name may have a port's colon in no registry of ours.
func parseScope(s string) (repo string, acts action, ok bool) {
	if len(s) > 2*maxName {
		return "", 0, false
	}
	typ, rest, ok := strings.Cut(s, ":")
	// "repository(plugin)" is Docker's class of a repository.
	if typ, _, _ = strings.Cut(typ, "("); !ok || typ != "repository" {
		return "", 0, false
	}
	repo, list, ok := strings.Cut(rest, ":")
	if !ok || !validName(repo) {
		return "", 0, false
	}
	for a := range strings.SplitSeq(list, ",") {
		if a == "*" {
			acts |= actionPull | actionPush | actionDelete
		}
		acts |= actions[a]
	}
	return repo, acts &^ actionAdmin, true
}

// marshal is json.Marshal of what can't fail.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
