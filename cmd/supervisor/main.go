// Command supervisor is the parent of all containers; see package server. The engine starts it, from a sealed memfd.
package main

import (
	"gantry/internal/runtime/component"
	"gantry/internal/runtime/supervisor/server"
)

func main() {
	init := 4
	component.Main("supervisor", map[string]*int{server.InitFlag: &init}, server.Check, func(c component.Conf) error {
		return server.Run(server.Config{Conf: c, Init: init})
	})
}
