//go:build embed

package main

import _ "embed"

var (
	//go:embed programs/init
	initProgram []byte
	//go:embed programs/supervisor
	supervisorProgram []byte
	//go:embed programs/relay
	relayProgram []byte
)

// programs returns the small programs by name. They are linked in whole: nothing has to be found on disk. The
// bytes are those of the executable's own mapping, read when first needed.
func programs() map[string][]byte {
	return map[string][]byte{"init": initProgram, "supervisor": supervisorProgram, "relay": relayProgram}
}
