package container

import (
	"context"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
)

// Logs reads the log; errs.NotImplemented in Docker's words where the driver keeps none.
func (s *Service) Logs(ctx context.Context, ref string, o LogOptions) (LogReader, error) {
	c, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	snap := c.get()
	if snap.Status == Removing || snap.Status == Dead {
		return nil, errs.Conflict.Errorf("can not get logs from container which is dead or marked for removal")
	}
	if !o.Stdout && !o.Stderr {
		return nil, errs.Invalid.Errorf("Bad parameters: you must choose at least one stream")
	}
	var ended <-chan struct{}
	if o.Follow && snap.Status.Alive() {
		// A container that its policy starts again goes on with the same log, and so does who follows it; Docker ends here.
		w, err := s.Wait(ctx, c.id, api.WaitConditionNextExit)
		if err != nil {
			return nil, err
		}
		ch := make(chan struct{})
		go func() {
			<-w
			close(ch)
		}()
		ended = ch
	}
	return s.openLog(&snap, o, ended)
}

func (s *Service) openLog(snap *Snapshot, o LogOptions, ended <-chan struct{}) (LogReader, error) {
	if snap.LogPath == "" {
		return nil, errs.NotImplemented.Errorf("configured logging driver does not support reading")
	}
	return s.OpenLog(snap.LogPath, o, ended)
}
