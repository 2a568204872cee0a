// Package ids makes the identifiers that Docker's users know: 64 hexadecimal digits, cut to 12 for display.
package ids

import (
	"crypto/rand"
	"encoding/hex"
)

// ShortLen is the number of hexadecimal digits shown for an ID.
const ShortLen = 12

// New returns a random ID of 64 lower-case hexadecimal digits. Like Docker, it never returns one whose
// short form is all digits: such a form would be taken for a number by tools that use it as a host name.
func New() string {
	var b [32]byte
	for {
		rand.Read(b[:]) // never fails since Go 1.24
		id := hex.EncodeToString(b[:])
		for i := range ShortLen {
			if id[i] > '9' {
				return id
			}
		}
	}
}

// Short cuts an ID, with or without an algorithm prefix such as "sha256:", to its display form.
func Short(id string) string {
	for i := range len(id) {
		if id[i] == ':' {
			id = id[i+1:]
			break
		}
	}
	if len(id) > ShortLen {
		return id[:ShortLen]
	}
	return id
}

// Valid reports whether s is a whole ID: 64 lower-case hexadecimal digits.
func Valid(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
