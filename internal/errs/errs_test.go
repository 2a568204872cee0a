package errs

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestKindSurvivesWrapping(t *testing.T) {
	base := NotFound.Errorf("No such container: %s", "x")
	wrapped := fmt.Errorf("start: %w", base)
	if KindOf(wrapped) != NotFound || wrapped.Error() != "start: No such container: x" {
		t.Fatalf("got %v %q", KindOf(wrapped), wrapped)
	}
	if KindOf(Conflict.Wrap(wrapped)) != Conflict {
		t.Fatal("the outermost kind must win")
	}
	if Conflict.Wrap(nil) != nil {
		t.Fatal("wrapping nil must stay nil")
	}
}

func TestKindOfForeignErrors(t *testing.T) {
	if KindOf(errors.New("x")) != Internal || KindOf(context.Canceled) != Canceled || Internal.Is(nil) {
		t.Fatal("foreign errors have the wrong kind")
	}
}
