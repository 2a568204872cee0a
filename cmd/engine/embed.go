//go:build embed

package main

import "embed"

//go:embed programs/init programs/supervisor
var files embed.FS

// programs returns the small programs by name. They are linked in whole: nothing has to be found on disk.
func programs() map[string][]byte {
	all := map[string][]byte{}
	for _, name := range []string{"init", "supervisor"} {
		data, err := files.ReadFile("programs/" + name)
		if err != nil {
			panic(err) // the build put it there
		}
		all[name] = data
	}
	return all
}
