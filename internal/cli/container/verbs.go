package container

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// parallel is how many containers a verb works on at once, as in Docker's client.
const parallel = 50

// forEach does one thing to every name, at most parallel at a time, and prints each name that it was done to in the order given.
// The errors come together at the end, a line each.
func forEach(ctx context.Context, env *command.Env, names []string, do func(ctx context.Context, c *client.Client, name string) error) error {
	c, err := env.Client()
	if err != nil {
		return err
	}
	results := make([]chan error, len(names))
	slots := make(chan struct{}, parallel)
	for i, n := range names {
		results[i] = make(chan error, 1)
		if len(names) == 1 {
			results[i] <- do(ctx, c, n)
			break
		}
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i] <- do(ctx, c, n)
		}()
	}
	var failed []string
	var gone error
	for i, n := range names {
		switch err := <-results[i]; {
		case err == nil:
			fmt.Fprintln(env.IO.Out, n)
		case client.IsConnection(err):
			gone = err
		default:
			failed = append(failed, err.Error())
		}
	}
	if gone != nil {
		return gone // once, however many were asked for
	}
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n"))
	}
	return nil
}
