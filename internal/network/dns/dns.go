// Package dns answers the questions of containers: names of their networks by itself, all others by asking name servers,
// in turn until one answers, or from what they answered lately.
//
// It is linked into the relay (package server of ../relay), which has the sockets.
package dns

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
)

// Names is what is known of a container's networks.
type Names interface {
	// Lookup returns the addresses that the name has in the container's networks; known is whether it is a name there.
	Lookup(name string) (addrs []netip.Addr, known bool)
	// Reverse returns the name of an address in them, or "".
	Reverse(netip.Addr) string
}

// Answer answers a query from what is known here, or says that it is to be forwarded. out is nil for what deserves none.
func Answer(m []byte, names Names) (out []byte, q Question, forward bool) {
	q, err := parse(m)
	if errors.Is(err, errMessage) {
		return nil, q, false
	}
	if err != nil {
		if m[2]&0x80 != 0 {
			return nil, q, false // a response
		}
		out = append([]byte(nil), m[:headerLen]...)
		out[2], out[3] = 0x80|m[2]&0x79, notImpl
		clear(out[4:])
		return out, q, false
	}
	if q.class != classIN {
		return nil, q, true
	}
	switch q.kind {
	case typeA, typeAAAA, typeANY:
		addrs, known := names.Lookup(q.name)
		if !known {
			return nil, q, true
		}
		// Whoever takes the first address takes each in turn.
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
		out = respond(m, q, noError)
		for _, a := range addrs[:min(len(addrs), maxAddrs)] {
			switch {
			case a.Is4() && q.kind != typeAAAA:
				out = add(out, typeA, a.AsSlice())
			case a.Is6() && q.kind != typeA:
				out = add(out, typeAAAA, a.AsSlice())
			}
		}
		return addOPT(out, m, q), q, false
	case typePTR:
		if a, ok := reverse(q.name); ok {
			if name := names.Reverse(a); name != "" {
				return addOPT(add(respond(m, q, noError), typePTR, encodeName(name)), m, q), q, false
			}
		}
	default:
		// Other types of a name that is known here: there are none.
		if _, known := names.Lookup(q.name); known {
			return addOPT(respond(m, q, noError), m, q), q, false
		}
	}
	return nil, q, true
}

// Fit makes an answer to query m one that the client takes in a datagram: one that is too long it shall ask for again by TCP.
func Fit(out, m []byte, q Question) []byte {
	limit := plainUDP
	if o := optOf(m, q); o.present {
		limit = min(max(plainUDP, int(o.size)), maxUDP)
	}
	if len(out) <= limit {
		return out
	}
	out = append([]byte(nil), out[:q.end]...)
	clear(out[6:headerLen])
	out[2] |= 0x02
	return addOPT(out, m, q)
}

// opt is what a query says by its OPT record (EDNS, RFC 6891).
type opt struct {
	present bool
	size    uint16 // the largest datagram the client takes
	dnssec  bool
	options bool // there are some, as a cookie (RFC 7873): the answer is meant for this query alone
}

// optOf reads the OPT record where clients put it, behind the question.
func optOf(m []byte, q Question) (o opt) {
	if q.end < headerLen || len(m) < q.end+11 || m[q.end] != 0 || binary.BigEndian.Uint16(m[q.end+1:]) != typeOPT {
		return o
	}
	r := m[q.end+1:]
	return opt{true, binary.BigEndian.Uint16(r[2:]), r[6]&0x80 != 0, binary.BigEndian.Uint16(r[8:]) != 0}
}

// addOPT ends an answer as a query with an OPT record asks for.
func addOPT(out, m []byte, q Question) []byte {
	if !optOf(m, q).present {
		return out
	}
	binary.BigEndian.PutUint16(out[10:], 1)
	out = append(out, 0, 0, typeOPT)
	out = binary.BigEndian.AppendUint16(out, maxUDP)
	return append(out, 0, 0, 0, 0, 0, 0)
}
