package container

import (
	"encoding/json"
	"fmt"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
	"gantry/internal/state"
)

// The state buckets: records by ID, and IDs by name. A name is never without its record: both are written
// and deleted in one transaction.
const (
	recordBucket = "containers"
	nameBucket   = "names"
)

// recordVersion is the version of record that is written; older ones are read.
const recordVersion = 1

// record is a container as the state file keeps it.
type record struct {
	V          int                                  `json:"v"`
	ID         string                               `json:"id"`
	Name       string                               `json:"name"`
	Created    time.Time                            `json:"created"`
	Image      imageRecord                          `json:"image"`
	Config     *api.Config                          `json:"config"`
	HostConfig *api.HostConfig                      `json:"host_config"`
	Path       string                               `json:"path"`
	Args       []string                             `json:"args,omitempty"`
	Mounts     []api.MountPoint                     `json:"mounts,omitempty"`
	Networks   map[string]*network.EndpointSettings `json:"networks,omitempty"`
	// MountOptions are missing in records of before volumes.
	MountOptions map[string]MountOptions `json:"mount_options,omitempty"`
	Links        []Link                  `json:"links,omitempty"`
	Status       string                  `json:"status"`
	ExitCode     int                     `json:"exit_code,omitempty"`
	OOMKilled    bool                    `json:"oom_killed,omitempty"`
	Error        string                  `json:"error,omitempty"`
	StartedAt    time.Time               `json:"started_at,omitzero"`
	FinishedAt   time.Time               `json:"finished_at,omitzero"`
	Restarts     int                     `json:"restarts,omitempty"`
	Stopped      bool                    `json:"stopped,omitempty"` // by a user: unless-stopped leaves it so
}

type imageRecord struct {
	ID       digest.Digest    `json:"id"`
	Name     string           `json:"name"`
	ChainID  digest.Digest    `json:"chain_id,omitempty"`
	Platform ocispec.Platform `json:"platform"`
}

func newRecord(s *Snapshot, stopped bool) *record {
	return &record{
		V: recordVersion, ID: s.ID, Name: s.Name, Created: s.Created,
		Image:  imageRecord{s.Image.ID, s.Image.Name, s.Image.ChainID, s.Image.Config.Platform},
		Config: s.Config, HostConfig: s.HostConfig, Path: s.Path, Args: s.Args, Mounts: s.Mounts, MountOptions: s.MountOptions, Networks: s.Wanted, Links: s.Links,
		Status: s.Status.String(), ExitCode: s.ExitCode, OOMKilled: s.OOMKilled, Error: s.Error,
		StartedAt: s.StartedAt, FinishedAt: s.FinishedAt, Restarts: s.RestartCount, Stopped: stopped,
	}
}

// snapshot is the inverse of newRecord, but for what follows from where things lie.
func (r *record) snapshot() (Snapshot, error) {
	if r.V > recordVersion {
		return Snapshot{}, errs.Conflict.Errorf("container %s: record version %d was written by a newer gantry; this one knows %d", r.ID, r.V, recordVersion)
	}
	status, ok := ParseStatus(r.Status)
	if !ok || r.Config == nil || r.HostConfig == nil {
		return Snapshot{}, fmt.Errorf("container %s: incomplete record", r.ID)
	}
	return Snapshot{
		ID: r.ID, Name: r.Name, Created: r.Created,
		Image: Image{ID: r.Image.ID, Name: r.Image.Name, ChainID: r.Image.ChainID,
			Config: dockerspec.DockerOCIImage{Image: ocispec.Image{Platform: r.Image.Platform}}},
		Config: r.Config, HostConfig: r.HostConfig, Path: r.Path, Args: r.Args, Mounts: r.Mounts, MountOptions: r.MountOptions, Wanted: r.Networks, Links: r.Links,
		Status: status, ExitCode: r.ExitCode, OOMKilled: r.OOMKilled, Error: r.Error,
		StartedAt: r.StartedAt, FinishedAt: r.FinishedAt, RestartCount: r.Restarts,
	}, nil
}

// frozen is a record encoded when it was queued: what the actor changes afterwards is the next one's.
type frozen struct {
	id, name string
	data     json.RawMessage
}

func freeze(r *record) (frozen, error) {
	data, err := json.Marshal(r)
	return frozen{r.ID, r.Name, data}, err
}

// reserve writes record and name of a new container, unless the name is taken.
func (f frozen) reserve(tx state.Tx) error {
	var holder string
	if taken, err := tx.Get(nameBucket, f.name, &holder); err != nil {
		return err
	} else if taken && holder != f.id {
		return errNameTaken(f.name, holder)
	}
	if err := tx.Put(nameBucket, f.name, f.id); err != nil {
		return err
	}
	return tx.Put(recordBucket, f.id, f.data)
}

// update writes the record of a container, if there still is one.
func (f frozen) update(tx state.Tx) error {
	var old struct{}
	if there, err := tx.Get(recordBucket, f.id, &old); err != nil || !there {
		return err
	}
	return tx.Put(recordBucket, f.id, f.data)
}

// erase deletes record and name. It may run twice.
func erase(tx state.Tx, id, name string) error {
	var holder string
	if ok, err := tx.Get(nameBucket, name, &holder); err != nil {
		return err
	} else if ok && holder == id {
		if err := tx.Delete(nameBucket, name); err != nil {
			return err
		}
	}
	return tx.Delete(recordBucket, id)
}

func errNameTaken(name, id string) error {
	return errs.Conflict.Errorf("Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", "/"+name, id)
}
