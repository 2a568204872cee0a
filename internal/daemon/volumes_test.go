package daemon

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gantry/internal/volume"
)

// volumeOps is a life of volumes in which every step of the service is met: names, an image's content, a container with an
// anonymous volume, and what is done with whole volumes.
func volumeOps(autoRemove bool) []request {
	host := map[string]any{"NetworkMode": "none", "AutoRemove": autoRemove, "Binds": []string{"filled:/bin", "kept:/kept"}}
	config := map[string]any{"Image": "busybox", "Cmd": []string{"sh", "-c", "echo done >/kept/done"}, "HostConfig": host, "Volumes": map[string]any{"/anon": struct{}{}}}
	return []request{
		{"POST", "/volumes/create", map[string]any{"Name": "doomed", "Labels": map[string]string{"a": "b"}}},
		{"POST", "/volumes/create", map[string]any{"Name": "kept", "Labels": map[string]string{"a": "b"}}},
		{"POST", "/containers/create?name=victim", config},
		{"POST", "/containers/victim/start", nil},
		{"POST", "/containers/victim/wait?condition=not-running", nil},
		{"DELETE", "/containers/victim?v=1&force=1", nil},
		{"POST", "/volumes/source/import", fiveFiles()},
		{"POST", "/volumes/source/clone?to=copy", nil},
		{"POST", "/volumes/source/snapshots?name=one", nil},
		{"POST", "/volumes/source/restore?snapshot=one", nil},
		{"DELETE", "/volumes/doomed", nil},
		{"POST", "/gantry/undo?ref=doomed", nil},
		{"DELETE", "/volumes/doomed?now=1", nil},
	}
}

// fiveFiles is an archive, by the names of the files in it.
func fiveFiles() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range five {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 1, Typeflag: tar.TypeReg})
		w.Write([]byte("x"))
	}
	w.Close()
	return b.Bytes()
}

var five = []string{"1", "2", "3", "4", "5"}

// TestVolumeCrash kills the engine at every step that volumes take, and at those of the containers that hold them. With the
// next engine each volume is whole or never was, none is left that went with a container, and nothing lies about.
func TestVolumeCrash(t *testing.T) {
	points := append(volume.Failpoints(), "container.create.dir", "container.create.volumes", "container.create.record", "container.start.files",
		"container.remove.mark", "container.remove.record", "container.remove.files")
	crashAt(t, points, volumeCrash)
}

func volumeCrash(e *testEngine, point string, autoRemove bool) {
	t := e.t
	e.dieAt(point, volumeOps(autoRemove))
	volumesWhole(e, point)
	e.call("DELETE", "/containers/victim?v=1&force=1", nil, nil)
	if code, text := e.call("POST", "/gantry/undo?ref=victim", nil, nil); code == 200 {
		// Back from the trash, with its own volume.
		var x struct{ Mounts []struct{ Name string } }
		e.must("GET", "/containers/victim/json", nil, &x)
		for _, m := range x.Mounts {
			if len(m.Name) == 64 {
				e.must("GET", "/volumes/"+m.Name, nil, nil)
			}
		}
		e.must("DELETE", "/containers/victim?v=1", nil, nil)
	} else if code != 404 {
		t.Errorf("undo: %d %s", code, text)
	}
	var list struct{ Volumes []struct{ Name string } }
	e.must("GET", "/volumes", nil, &list)
	for _, v := range list.Volumes {
		if len(v.Name) == 64 {
			t.Errorf("an anonymous volume is left: %s\n%s", v.Name, e.log())
		}
		e.must("DELETE", "/volumes/"+v.Name, nil, nil)
	}
	e.must("DELETE", "/gantry/trash", nil, nil)
	e.end()
	entries, _ := os.ReadDir(filepath.Join(e.root, "data/volumes"))
	for _, x := range entries {
		if !strings.HasPrefix(x.Name(), ".") {
			t.Errorf("left behind: %s", x.Name())
		}
	}
	if left, _ := os.ReadDir(filepath.Join(e.root, "data/volumes/.trash")); len(left) > 0 {
		t.Errorf("left in the trash: %v", left)
	}
}

// volumesWhole checks what the next engine found.
func volumesWhole(e *testEngine, point string) {
	t := e.t
	var list struct {
		Volumes []struct {
			Name, Mountpoint string
			Labels           map[string]string
		}
	}
	e.must("GET", "/volumes", nil, &list)
	for _, v := range list.Volumes {
		var names []string
		entries, err := os.ReadDir(v.Mountpoint)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		for _, x := range entries {
			names = append(names, x.Name())
		}
		switch v.Name {
		case "filled":
			if whole := []string{"busybox", "cat", "echo", "sh", "sleep"}; len(names) > 0 && !slices.Equal(names, whole) {
				t.Errorf("after a crash at %s the volume has a part of the image's content: %v", point, names)
			}
		case "source", "copy":
			if !slices.Equal(names, five) {
				t.Errorf("after a crash at %s the volume %s has %v", point, v.Name, names)
			}
			var snaps []struct{ Name string }
			e.must("GET", "/volumes/"+v.Name+"/snapshots", nil, &snaps)
			kept, _ := os.ReadDir(filepath.Join(filepath.Dir(v.Mountpoint), "_snapshots"))
			if len(kept) != len(snaps) {
				t.Errorf("after a crash at %s there are %d snapshots, and %d folders", point, len(snaps), len(kept))
			}
			for _, s := range snaps {
				if files, _ := os.ReadDir(filepath.Join(filepath.Dir(v.Mountpoint), "_snapshots", s.Name)); len(files) != len(five) {
					t.Errorf("after a crash at %s snapshot %s has %d files", point, s.Name, len(files))
				}
			}
		case "kept", "doomed":
			if v.Labels["a"] != "b" {
				t.Errorf("after a crash at %s the volume %s has lost its labels", point, v.Name)
			}
		}
		inside, _ := os.ReadDir(filepath.Dir(v.Mountpoint))
		for _, x := range inside {
			if x.Name() == "_fill" || x.Name() == "_new" {
				t.Errorf("after a crash at %s %s/%s is left", point, v.Name, x.Name())
			}
		}
	}
}
