package dns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// Record types and response codes (RFC 1035, RFC 3596).
const (
	typeA    = 1
	typeSOA  = 6
	typePTR  = 12
	typeAAAA = 28
	typeOPT  = 41
	typeANY  = 255
	classIN  = 1

	noError  = 0
	servFail = 2
	nxDomain = 3
	notImpl  = 4
	refused  = 5

	headerLen = 12
	// ttl is Docker's, in seconds.
	ttl = 600
	// plainUDP is what a client that does not say otherwise takes in one datagram.
	plainUDP = 512
	// maxUDP is what we take, and send at most. Between a container and us there is a loopback interface, which cuts nothing.
	maxUDP = 4096
	// maxAddrs bounds an answer of ours: a message has at most 65,535 bytes.
	maxAddrs = 2000
)

var (
	errMessage = errors.New("malformed DNS message")
	errOther   = errors.New("not a plain query")
)

// Question is what a query asks.
type Question struct {
	name  string // lower case, without the dot at the end; a dot or backslash within a label has a backslash before it
	kind  uint16
	class uint16
	end   int // where it ends in the message
}

// parse reads the header and the one question of a query.
func parse(m []byte) (q Question, err error) {
	if len(m) < headerLen {
		return q, errMessage
	}
	flags := binary.BigEndian.Uint16(m[2:])
	if flags&0xf800 != 0 || binary.BigEndian.Uint16(m[4:]) != 1 {
		return q, errOther // a response, another operation, or not one question
	}
	var name strings.Builder
	at := headerLen
	for {
		if at >= len(m) {
			return q, errMessage
		}
		n := int(m[at])
		at++
		if n == 0 {
			break
		}
		// No compression: there is nothing before the question that it could point to.
		if n > 63 || at+n > len(m) || at-headerLen+n+1 > 255 {
			return q, errMessage
		}
		if name.Len() > 0 {
			name.WriteByte('.')
		}
		for _, c := range m[at : at+n] {
			switch {
			case 'A' <= c && c <= 'Z':
				c += 'a' - 'A'
			case c == '.' || c == '\\':
				// A dot within a label divides nothing. Unmarked, the one label "a.b" would have the answer to a.b in the cache, for all
				// containers: that there is no such name.
				name.WriteByte('\\')
			}
			name.WriteByte(c)
		}
		at += n
	}
	if at+4 > len(m) {
		return q, errMessage
	}
	return Question{name.String(), binary.BigEndian.Uint16(m[at:]), binary.BigEndian.Uint16(m[at+2:]), at + 4}, nil
}

// respond begins the answer to query m, whose question is q.
func respond(m []byte, q Question, code byte) []byte {
	out := make([]byte, q.end, q.end+64)
	copy(out, m[:q.end])
	out[2] = 0x80 | m[2]&0x01 // a response; recursion as desired
	out[3] = 0x80 | code      // recursion is available
	clear(out[6:headerLen])
	return out
}

// add adds one record about the question's name.
func add(out []byte, kind uint16, data []byte) []byte {
	binary.BigEndian.PutUint16(out[6:], binary.BigEndian.Uint16(out[6:])+1)
	out = append(out, 0xc0, headerLen)
	out = binary.BigEndian.AppendUint16(out, kind)
	out = binary.BigEndian.AppendUint16(out, classIN)
	out = binary.BigEndian.AppendUint32(out, ttl)
	out = binary.BigEndian.AppendUint16(out, uint16(len(data)))
	return append(out, data...)
}

// encodeName is the wire form of a name; what has no such form is cut.
func encodeName(name string) (b []byte) {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label = label[:min(len(label), 63)]; label != "" && len(b)+len(label) < 250 {
			b = append(append(b, byte(len(label))), label...)
		}
	}
	return append(b, 0)
}

// reverse reads the address that a name below in-addr.arpa or ip6.arpa stands for.
func reverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		p := strings.Split(rest, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range 32 {
		n, err := strconv.ParseUint(rest[62-2*i:63-2*i], 16, 4)
		if err != nil || i < 31 && rest[61-2*i] != '.' {
			return netip.Addr{}, false
		}
		a[i/2] = a[i/2]<<4 | byte(n)
	}
	return netip.AddrFrom16(a), true
}

// records is what the cache must know of a response.
type records struct {
	ttls     []int  // where the records' TTLs are
	least    uint32 // of them, in seconds
	answers  uint16
	negative uint32 // for how long it holds that there is nothing (RFC 2308); 0: not said
}

// scan reads a response whose question is q.
func scan(m []byte, q Question) (r records, err error) {
	r.least = 1<<32 - 1
	r.answers = binary.BigEndian.Uint16(m[6:])
	n := int(r.answers) + int(binary.BigEndian.Uint16(m[8:])) + int(binary.BigEndian.Uint16(m[10:]))
	at := q.end
	for range n {
		if at, err = skipName(m, at); err != nil {
			return r, err
		}
		if at+10 > len(m) {
			return r, errMessage
		}
		kind, ttl, size := binary.BigEndian.Uint16(m[at:]), binary.BigEndian.Uint32(m[at+4:]), int(binary.BigEndian.Uint16(m[at+8:]))
		end := at + 10 + size
		if end > len(m) {
			return r, errMessage
		}
		if kind != typeOPT { // whose TTL is none
			r.ttls = append(r.ttls, at+4)
			r.least = min(r.least, ttl)
		}
		if kind == typeSOA && size >= 4 {
			r.negative = min(ttl, binary.BigEndian.Uint32(m[end-4:]))
		}
		at = end
	}
	return r, nil
}

// skipName returns where the name at at ends.
func skipName(m []byte, at int) (int, error) {
	for at < len(m) {
		n := int(m[at])
		switch {
		case n == 0:
			return at + 1, nil
		case n&0xc0 == 0xc0:
			return at + 2, nil // the rest is elsewhere
		case n > 63:
			return 0, errMessage
		}
		at += 1 + n
	}
	return 0, errMessage
}
