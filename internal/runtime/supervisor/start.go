package supervisor

import (
	"context"
	"errors"
)

// Start starts a supervisor as Options say and returns when it listens. If another one got the socket first, that is fine too.
func Start(ctx context.Context, opts Options) error {
	return errors.New("start the supervisor: not yet") // TODO
}
