package graph

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"sort"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// Field is one detail of what a vertex asks for: "exec.Args[2]" is "make".
type Field struct{ Path, Value string }

// Fields lists all that is in the digest of v, but for its inputs' digests: fields that are not zero, in
// an order that depends on nothing else. Two vertices with equal inputs have equal digests if and only if they have
// equal fields; whoever wants to say why two differ compares these.
func (v *Vertex) Fields() []Field {
	var fields []Field
	emit := func(path, value string) { fields = append(fields, Field{path, value}) }
	if v.Platform != (Platform{}) {
		emit("platform", v.Platform.String())
		if v.Platform.OSVersion != "" {
			emit("platform.OSVersion", v.Platform.OSVersion)
		}
	}
	// By reflection, so that no field that comes later is forgotten. One that is left at zero leaves the digests, and so the
	// caches, of before as they were.
	walk(v.Op.Kind(), reflect.ValueOf(v.Op).Elem(), emit)
	return fields
}

func walk(path string, v reflect.Value, emit func(path, value string)) {
	switch v.Kind() {
	case reflect.Struct:
		t := v.Type()
		names := make([]string, t.NumField())
		for i := range names {
			names[i] = t.Field(i).Name
		}
		// Sorted, so that fields may be moved about in the source.
		sort.Strings(names)
		for _, name := range names {
			f := v.FieldByName(name)
			switch {
			case f.IsZero():
			case name == "Mode" && f.Kind() == reflect.Uint32:
				emit(path+".Mode", fmt.Sprintf("%04o", f.Uint()))
			default:
				walk(path+"."+name, f, emit)
			}
		}
	case reflect.Pointer:
		// Named, since it may point to a zero.
		emit(path, "set")
		walk(path, v.Elem(), emit)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			emit(path, string(v.Bytes()))
			return
		}
		emit(path, strconv.Itoa(v.Len()))
		for i := range v.Len() {
			walk(path+"["+strconv.Itoa(i)+"]", v.Index(i), emit)
		}
	case reflect.String:
		emit(path, v.String())
	case reflect.Bool:
		emit(path, strconv.FormatBool(v.Bool()))
	case reflect.Int, reflect.Int64:
		emit(path, strconv.FormatInt(v.Int(), 10))
	case reflect.Uint32, reflect.Uint64:
		emit(path, strconv.FormatUint(v.Uint(), 10))
	default:
		panic("graph: a field of kind " + v.Kind().String() + " has no encoding")
	}
}

// digestOf is the digest of v, whose inputs have theirs: SHA-256 over a list of strings, each preceded by its
// length, so that no two lists look alike.
func digestOf(v *Vertex) digest.Digest {
	b := make([]byte, 0, 1024)
	str := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	str("gantry.graph.1")
	str(strconv.Itoa(len(v.Inputs)))
	for _, in := range v.Inputs {
		str(string(in.Vertex.digest))
		str(strconv.Itoa(in.Output))
	}
	str(v.Op.Kind())
	for _, f := range v.Fields() {
		str(f.Path)
		str(f.Value)
	}
	return digest.FromBytes(b)
}
