package formatter

import (
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
)

// History prints how an image was made.
func History(w io.Writer, f Format, human, noTrunc bool, list []image.HistoryResponseItem) error {
	var rows []*HistoryContext
	for i := range list {
		rows = append(rows, &HistoryContext{&list[i], human, !noTrunc})
	}
	created := "CreatedSince"
	if !human {
		created = "CreatedAt"
	}
	columns := []Column{{"IMAGE", "ID"}, {"CREATED", created}, {"CREATED BY", "CreatedBy"}, {"SIZE", "Size"}, {"COMMENT", "Comment"}}
	headers := map[string]string{"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT"}
	return Write(w, f, columns, headers, rows, func(c *HistoryContext, field string) string {
		switch field {
		case "ID":
			return c.ID()
		case "CreatedSince":
			return c.CreatedSince()
		case "CreatedAt":
			return c.CreatedAt()
		case "CreatedBy":
			return c.CreatedBy()
		case "Size":
			return c.Size()
		}
		return c.Comment()
	})
}

// HistoryContext is one step in a template of history.
type HistoryContext struct {
	h            *image.HistoryResponseItem
	human, trunc bool
}

// MarshalJSON is what --format json prints.
func (c *HistoryContext) MarshalJSON() ([]byte, error) { return marshal(c) }

// ID is the image's ID, short unless --no-trunc, or <missing>.
func (c *HistoryContext) ID() string {
	if c.trunc && c.h.ID != "<missing>" {
		return ShortID(c.h.ID)
	}
	return c.h.ID
}

// CreatedAt is when the step was made.
func (c *HistoryContext) CreatedAt() string { return time.Unix(c.h.Created, 0).Format(time.RFC3339) }

// CreatedSince is how long ago that was; a time, without --human.
func (c *HistoryContext) CreatedSince() string {
	if !c.human {
		return c.CreatedAt()
	}
	if c.h.Created <= 0 {
		return "N/A"
	}
	return units.HumanDuration(time.Now().UTC().Sub(time.Unix(c.h.Created, 0))) + " ago"
}

// CreatedBy is the command that made the step.
func (c *HistoryContext) CreatedBy() string {
	s := strings.ReplaceAll(c.h.CreatedBy, "\t", " ")
	if c.trunc {
		return Truncate(s, 45)
	}
	return s
}

// Size is what the step added.
func (c *HistoryContext) Size() string {
	if c.human {
		return units.HumanSizeWithPrecision(float64(c.h.Size), 3)
	}
	return strconv.FormatInt(c.h.Size, 10)
}

// Comment is what was said of the step.
func (c *HistoryContext) Comment() string { return c.h.Comment }
