package events

import (
	"strconv"

	api "github.com/moby/moby/api/types/events"
)

// Pruned publishes that a prune of a kind of things ("container", "image", "volume") freed so many bytes.
func (b *Bus) Pruned(kind string, reclaimed uint64) {
	b.publish(api.Type(kind), string(api.ActionPrune), "", map[string]string{"reclaimed": strconv.FormatUint(reclaimed, 10)})
}
