package initproc

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"gantry/internal/runtime/spec"
)

// fill sets every field of v to something, so that one forgotten by the decoder shows.
func fill(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), r)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), r)
	case reflect.Slice:
		n := 1 + r.IntN(3)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(v.Index(i), r)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(k, r)
			fill(e, r)
			v.SetMapIndex(k, e)
		}
	case reflect.String:
		const alphabet = "ab \"\\\n\t\x01</&é\u2028😀"
		runes := []rune(alphabet)
		var b strings.Builder
		for range 1 + r.IntN(8) {
			b.WriteRune(runes[r.IntN(len(runes))])
		}
		v.SetString(b.String())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(-1 - r.Int64N(1000))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(1 + r.Uint64()>>(65-v.Type().Bits()))
	default:
		panic(v.Type().String())
	}
}

func TestDecodeKnowsEveryField(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var want spec.Init
		fill(reflect.ValueOf(&want).Elem(), r)
		b, err := json.Marshal(&want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeInit(b)
		if err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		if !reflect.DeepEqual(got, &want) {
			t.Fatalf("got  %+v\nwant %+v", got, &want)
		}
		// Unknown fields are passed over, for an older init may be told more than it knows.
		more := strings.Replace(string(b), `{"root":`, `{"new":[1.5e3,{"a":[null,true,false,"]"]},-2],"root":`, 1)
		if got, err := decodeInit([]byte(more)); err != nil || !reflect.DeepEqual(got, &want) {
			t.Fatalf("with an unknown field: %v", err)
		}
		exec, err := json.MarshalIndent(&want.Exec, " ", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeExec(exec); err != nil || !reflect.DeepEqual(got, &want.Exec) {
			t.Fatalf("exec: %v", err)
		}
	}
}

// FuzzDecode holds the decoder against encoding/json: what both take, they understand alike.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"exec":{"args":["a"]}}`, `{"root":{"lower":["\ud83d\ude00","\ud83d"]}}`, `{"clone":1e3}`, `{"devices":[{"type":99}]}`, `[`, `{"a":{"b":[[[[]]]]}}`,
		`{"exec":{"seccomp":"AAEC"}}`, `{"exec":{"oom_score_adj":null,"umask":18}}`, `{"mounts":[{"of":null},{"of":{"pid":1}}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeInit(b)
		if err != nil {
			return
		}
		var want spec.Init
		dec := json.NewDecoder(strings.NewReader(string(b)))
		if err := dec.Decode(&want); err != nil {
			return // the decoder is more lenient: numbers like 01, invalid UTF-8
		}
		// encoding/json matches names in any case and repairs UTF-8; only what it writes itself must agree.
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := decodeInit(again)
		if err != nil {
			t.Fatalf("%v in %s", err, again)
		}
		if b2, _ := json.Marshal(twice); string(b2) != string(again) {
			t.Fatalf("%s became %s", again, b2)
		}
	})
}

func TestFailureIsJSON(t *testing.T) {
	t.Parallel()
	for _, message := range []string{"", `a "quoted" \ thing`, "line\nbreak\x00\x1f", "é 😀"} {
		var got spec.Failure
		b := whole("st\"age", 126, 13, message)
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		if want := (spec.Failure{Stage: `st"age`, Code: 126, Errno: 13, Message: message}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestStartTime(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]uint64{
		"1 (a) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4711 21 22\n":           4711,
		"1 (evil) S 1 1 1) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4712 21 22": 4712,
	} {
		if got, ok := startTime([]byte(in)); !ok || got != want {
			t.Errorf("%q: %d, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "1", "1 (a", "1 (a) S 2 3", "1 (a) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 x"} {
		if _, ok := startTime([]byte(in)); ok {
			t.Errorf("%q was taken", in)
		}
	}
}
