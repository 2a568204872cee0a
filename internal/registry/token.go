package registry

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

const tokenIssuer = "gantry-registry"

// maxToken bounds a token's length; ours with 32 scopes of the longest names has less.
const maxToken = 16 << 10

// claims is a token's content, in the words of Docker's token specification ("JSON Web Token").
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  string   `json:"aud"`
	Expires   int64    `json:"exp"`
	NotBefore int64    `json:"nbf"`
	IssuedAt  int64    `json:"iat"`
	ID        string   `json:"jti"`
	Access    []access `json:"access"`
}

type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

func (c *claims) allows(repo string, act action) bool {
	var got action
	for _, a := range c.Access {
		if a.Type == "repository" && a.Name == repo {
			for _, name := range a.Actions {
				got |= actions[name]
			}
		}
	}
	return got&act == act
}

// catalogScope is what a token for the names of all repositories is asked for with, as distribution has it.
const catalogScope = "registry:catalog:*"

// catalog reports whether the token is good for the names of all repositories that its user may read.
func (c *claims) catalog() bool {
	return slices.ContainsFunc(c.Access, func(a access) bool { return a.Type == "registry" && a.Name == "catalog" })
}

var tokenHeader = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","typ":"JWT"}`))

// signToken makes a JWT (RFC 7519, RFC 8037).
func signToken(key ed25519.PrivateKey, c claims) string {
	signed := tokenHeader + "." + base64.RawURLEncoding.EncodeToString(marshal(c))
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(signed)))
}

var errToken = errors.New("invalid token")

// verifyToken checks a token of ours. Its header must be ours to the byte: no algorithm is for the client to choose.
func verifyToken(key ed25519.PublicKey, s string, now time.Time) (*claims, error) {
	if len(s) > maxToken {
		return nil, errToken
	}
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return nil, errToken
	}
	header, body, ok := strings.Cut(s[:i], ".")
	if !ok || header != tokenHeader {
		return nil, errToken
	}
	sig, err := base64.RawURLEncoding.DecodeString(s[i+1:])
	if err != nil || !ed25519.Verify(key, []byte(s[:i]), sig) {
		return nil, errToken
	}
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, errToken
	}
	var c claims
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, errToken
	}
	if c.Issuer != tokenIssuer || now.Unix() < c.NotBefore || now.Unix() >= c.Expires ||
		slices.ContainsFunc(c.Access, func(a access) bool { return a.Type != "repository" && a.Type != "registry" }) {
		return nil, errToken
	}
	return &c, nil
}
