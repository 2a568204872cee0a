// Command relay holds sockets that outlive the engine; see package server. The engine starts it, from a sealed memfd.
package main

import (
	"gantry/internal/network/relay/server"
	"gantry/internal/runtime/component"
)

func main() { component.Main("relay", nil, server.Check, server.Run) }
