package container

import (
	"testing"

	"gantry/internal/errs"
)

// TestNext holds every pair of status and event: those named lead on, all others are refused.
func TestNext(t *testing.T) {
	t.Parallel()
	const statuses, events = int(Dead) + 1, int(RemoveFailed) + 1
	refused := Status(255)
	want := [statuses][events]Status{
		//          Started  StartFailed Ended   EndedAgain  Canceled Froze    Thawed   RemoveBegun RemoveFailed
		Created:    {Running, Created, refused, refused, refused, refused, refused, Removing, refused},
		Running:    {refused, refused, Exited, Restarting, refused, Paused, refused, refused, refused},
		Paused:     {refused, refused, Exited, Restarting, refused, refused, Running, refused, refused},
		Restarting: {Running, Exited, refused, refused, Exited, refused, refused, refused, refused},
		Removing:   {refused, refused, refused, refused, refused, refused, refused, refused, Dead},
		Exited:     {Running, Exited, refused, refused, refused, refused, refused, Removing, refused},
		Dead:       {refused, refused, refused, refused, refused, refused, refused, Removing, refused},
	}
	for s := range statuses {
		for e := range events {
			got, err := Next(Status(s), Event(e))
			w := want[s][e]
			if w == refused {
				if err == nil {
					t.Errorf("%v + %v = %v, want it refused", Status(s), Event(e), got)
				} else if k := errs.KindOf(err); k != errs.Conflict && k != errs.NotModified {
					t.Errorf("%v + %v: kind %v", Status(s), Event(e), k)
				} else if got != Status(s) {
					t.Errorf("%v + %v: refused, but moved to %v", Status(s), Event(e), got)
				}
				continue
			}
			if err != nil || got != w {
				t.Errorf("%v + %v = %v, %v, want %v", Status(s), Event(e), got, err, w)
			}
		}
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	for s := Created; s <= Dead; s++ {
		if got, ok := ParseStatus(s.String()); !ok || got != s {
			t.Errorf("ParseStatus(%q) = %v, %v", s.String(), got, ok)
		}
	}
	if _, ok := ParseStatus("up"); ok {
		t.Error(`ParseStatus("up") succeeded`)
	}
}
