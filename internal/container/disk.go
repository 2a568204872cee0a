package container

import (
	"os"
	"strings"

	"gantry/internal/disk"
	"gantry/internal/trash"
)

// DiskParts tells what the containers' folders belong to.
func (s *Service) DiskParts() []disk.Part {
	of := func(known func(id string) bool, kind disk.Kind) func(string) (disk.Owner, bool) {
		return func(name string) (disk.Owner, bool) {
			id, file, nested := strings.Cut(name, "/")
			switch {
			case !nested && known(id):
				return disk.Owner{Kind: kind, Name: id}, true
			case !nested:
				return disk.Owner{Kind: disk.Orphans, Name: "container " + id}, true
			case kind == disk.Containers && strings.HasPrefix(file, id+"-json.log") && known(id):
				return disk.Owner{Kind: disk.Logs, Name: id}, true
			}
			return disk.Owner{}, false
		}
	}
	return []disk.Part{
		{Dir: "containers", Of: of(s.owns, disk.Containers)},
		{Dir: "trash/containers", Of: of(func(id string) bool { return s.Trash.Has(trash.Container, id) }, disk.Trash)},
	}
}

// owns reports whether a folder belongs to a container that there is, that is being made, or that is just leaving.
func (s *Service) owns(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.byID[id] != nil || s.leavings[id] != nil {
		return true
	}
	for _, holder := range s.names { // reserved before the folder is made
		if holder == id {
			return true
		}
	}
	return false
}

// CollectOrphans throws away folders that belong to nobody. It returns the containers' IDs.
func (s *Service) CollectOrphans() (gone []string, err error) {
	entries, err := os.ReadDir(s.Root)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		id := e.Name()
		if s.owns(id) || s.Trash.Has(trash.Container, id) {
			continue
		}
		s.removeDir(id)
		gone = append(gone, id)
	}
	if s.Parking == nil {
		return gone, nil
	}
	parked, err := s.Parking.Parked()
	for _, id := range parked {
		if s.owns(id) || s.Trash.Has(trash.Container, id) {
			continue
		}
		if derr := s.Parking.DiscardParked(id); derr != nil {
			err = derr
			continue
		}
		gone = append(gone, id)
	}
	return gone, err
}
