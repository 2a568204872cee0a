package daemon

import (
	"gantry/internal/container"
	"gantry/internal/errs"
)

// openLog opens a json-file log.
func openLog(path string, o container.LogOptions, ended <-chan struct{}) (container.LogReader, error) {
	return nil, errs.NotImplemented.Errorf("configured logging driver does not support reading")
}
