//go:build embed

package main

import _ "embed"

// engine is the engine's program, built before this one (make build). A string, so that it stays in the file's
// pages, untouched until somebody wants an engine.
//
//go:embed programs/engine
var engine string
