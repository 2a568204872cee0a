package command

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"gantry/internal/client"
)

// Removal adds the flag --now to a verb that removes things. What it returns gives the requests of one call a ctx that says
// so, and that makes them one operation, to be undone together.
func Removal(fs *pflag.FlagSet, env *Env) func(context.Context) context.Context {
	now := false
	if !env.AsDocker() {
		fs.BoolVar(&now, "now", false, "Delete for good, not into the trash (gantry undo)")
	}
	return func(ctx context.Context) context.Context {
		return client.WithRemoval(ctx, client.Removal{Now: now, Operation: strconv.FormatInt(time.Now().UnixNano(), 36)})
	}
}
