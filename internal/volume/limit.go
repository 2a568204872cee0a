package volume

import (
	"errors"
	"io/fs"
	"os"

	"github.com/docker/go-units"

	"gantry/internal/errs"
	"gantry/internal/kernel/quota"
	"gantry/internal/trash"
)

// firstProject is the first project number that volumes take on ext4 and XFS; an administrator's own are small.
const firstProject = 1 << 20

// limited reports whether the volume has a size.
func (r *record) limited() bool { return r.size() > 0 && !r.mounted() }

// size is what the volume may hold, in bytes; 0: no limit. It was checked when the volume was made.
func (r *record) size() uint64 {
	n, err := units.RAMInBytes(r.Options["size"])
	if err != nil || n < 0 {
		return 0
	}
	return uint64(n)
}

// canLimit refuses a size where the file system cannot hold a volume to it.
func (s *Service) canLimit(r *record) error {
	if !r.limited() {
		return nil
	}
	err := quota.Supported(s.Root)
	if errors.Is(err, quota.ErrUnsupported) {
		return errs.Invalid.Errorf("quota size requested but no quota support: %s lies on a file system that cannot limit a directory (btrfs can; ext4 and XFS can when mounted with prjquota)", s.Root)
	}
	return err
}

// number gives a limited volume a project that no other has, in the trash neither. s.mu is held.
func (s *Service) number(r *record) {
	if !r.limited() {
		return
	}
	next := uint32(firstProject)
	for _, v := range s.vols {
		next = max(next, v.Project+1)
	}
	for _, it := range s.Trash.Items(trash.Volume) {
		var gone record
		if it.Decode(&gone) == nil {
			next = max(next, gone.Project+1)
		}
	}
	r.Project = next
}

// makeData makes a directory that is, or may become, the data of a volume, with its limit. One that is there stays.
func (s *Service) makeData(r *record, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if r.limited() {
		return quota.MakeDir(path, r.size(), r.Project)
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
