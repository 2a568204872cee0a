//go:build tools

// Package tools pins the programs that the checks run, apart from what Gantry itself links.
package tools

import _ "honnef.co/go/tools/cmd/staticcheck"
