package seccomp

import (
	"encoding/json"
	"testing"

	moby "github.com/moby/profiles/seccomp"

	"gantry/internal/kernel/caps"
)

// FuzzProfile feeds the reader of users' profiles: whatever comes, it must end in an error or in a filter that the
// kernel's checker would take.
func FuzzProfile(f *testing.F) {
	def, err := json.Marshal(moby.DefaultProfile())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(def)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"syscalls":[null]}`))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
		"syscalls":[{"name":"socket","action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_NE"},{"index":1,"value":18446744073709551615,"valueTwo":5,"op":"SCMP_CMP_MASKED_EQ"}],
		"includes":{"minKernel":"4.8","caps":["CAP_BPF"]},"excludes":{"arches":["s390"]}}]}`))
	f.Fuzz(func(t *testing.T, profile []byte) {
		filter, err := fromJSON(profile, caps.Default())
		if err != nil || filter == nil {
			return
		}
		prog := decode(filter)
		if len(prog) == 0 || len(prog) > 4096 {
			t.Fatalf("%d instructions", len(prog))
		}
		for pc, i := range prog {
			jump := i.Code == opEQ || i.Code == opGE || i.Code == opGT || i.Code == opSet
			if jump && pc+1+int(max(i.Jt, i.Jf)) >= len(prog) || i.Code == opJump && pc+1+int(i.K) >= len(prog) {
				t.Fatalf("the jump at %d leaves the program", pc)
			}
		}
		if prog[len(prog)-1].Code != opRet {
			t.Fatal("the last instruction is no return")
		}
	})
}
