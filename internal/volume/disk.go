package volume

import (
	"strings"

	"gantry/internal/disk"
)

// DiskParts tells, for system df, what belongs to whom below the volumes' folder.
func (s *Service) DiskParts() []disk.Part {
	return []disk.Part{{Dir: "volumes", Of: func(name string) (disk.Owner, bool) {
		top, _, nested := strings.Cut(name, "/")
		if nested {
			return disk.Owner{}, false
		}
		if top == trashDir || top == ".removed" {
			return disk.Owner{Kind: disk.Trash}, true
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.vols[top] == nil {
			return disk.Owner{Kind: disk.Other, Name: "volumes/" + top}, true // came by hand: taken in at the next start
		}
		return disk.Owner{Kind: disk.Volumes, Name: top}, true
	}}}
}
