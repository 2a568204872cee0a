package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/internal/registry"
	"gantry/internal/registry/disk"
)

// crashEnv makes the test binary a registry over the folder that it names.
const crashEnv = "GANTRY_TEST_REGISTRY"

func TestMain(m *testing.M) {
	if data := os.Getenv(crashEnv); data != "" {
		serveForCrash(data)
		return
	}
	os.Exit(m.Run())
}

// serveForCrash serves and collects without a pause, until it is killed.
func serveForCrash(data string) {
	st, err := disk.Open(data)
	if err == nil {
		cfg := registry.Config{Listen: "127.0.0.1:0", Data: data, GC: eager}
		cfg.GC.Uploads = registry.Duration(time.Hour)
		var s *registry.Server
		if s, err = registry.New(cfg, st, slog.New(slog.DiscardHandler)); err == nil {
			go func() {
				for {
					if _, err := s.Collect(context.Background()); err != nil {
						fmt.Fprintln(os.Stderr, "collect:", err)
						os.Exit(3)
					}
				}
			}()
			err = s.Serve(context.Background(), func(a net.Addr) { fmt.Println(a) })
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKilled kills the registry at random moments of pushes, deletions and collections, 20 times over one folder. What
// was acknowledged before is whole afterwards.
func TestKilled(t *testing.T) {
	t.Parallel()
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	if n, err := strconv.Atoi(os.Getenv("GANTRY_SOAK_ROUNDS")); err == nil {
		rounds = n
	}
	data := t.TempDir()
	var mu sync.Mutex
	tags := map[string]string{} // repo:tag → the digest that was acknowledged last
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+data)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var addr string
		if _, err := fmt.Fscanln(out, &addr); err != nil {
			cmd.Wait()
			t.Fatalf("round %d: the registry did not come up: %v: %s", round, err, &errs)
		}
		base := "http://" + addr
		for name, want := range tags {
			repo, tag, _ := strings.Cut(name, ":")
			if err := checkWhole(base, repo, tag, want); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		var pushers sync.WaitGroup
		for p := range 3 {
			pushers.Go(func() {
				for i := 0; ; i++ {
					repo, tag := fmt.Sprintf("r%d", p%2), fmt.Sprintf("p%d-%d", p, i%4)
					if i%5 == 4 {
						// From here until it is answered, nobody can say whether the tag is there.
						mu.Lock()
						delete(tags, repo+":"+tag)
						mu.Unlock()
						if status, err := send(base, "DELETE", "/v2/"+repo+"/manifests/"+tag, "", nil); err != nil {
							return
						} else if status != 202 && status != 404 {
							t.Errorf("delete: %d", status)
							return
						}
						continue
					}
					layers := [][]byte{slices.Repeat([]byte{byte(i)}, 1000+i%7), randomBytes(2000)}
					config := []byte(fmt.Sprintf(`{"i":%d}`, i%3))
					m := image(config, layers, nil)
					mu.Lock()
					before, known := tags[repo+":"+tag]
					delete(tags, repo+":"+tag)
					mu.Unlock()
					status := 0
					for status != 201 {
						for _, b := range append(layers, config) {
							if s, err := send(base, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest(b), "", b); err != nil {
								// Not pushed for sure: what was there before must be there still.
								if known {
									mu.Lock()
									tags[repo+":"+tag] = before
									mu.Unlock()
								}
								return
							} else if s != 201 {
								t.Errorf("upload: %d", s)
								return
							}
						}
						var err error
						if status, err = send(base, "PUT", "/v2/"+repo+"/manifests/"+tag, ociManifest, m); err != nil {
							return
						}
						if status != 201 && status != 400 { // 400: collected in between; again
							t.Errorf("push: %d", status)
							return
						}
					}
					mu.Lock()
					tags[repo+":"+tag] = digest(m)
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(30+rand.IntN(170)) * time.Millisecond) // the random moment
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		pushers.Wait()
		if errs.Len() > 0 {
			t.Errorf("round %d: %v: %s", round, err, &errs)
		}
	}
	t.Logf("%d tags at the end", len(tags))
	r := startAt(t, data, registry.Config{GC: eager})
	r.collect()
	for name, want := range tags {
		repo, tag, _ := strings.Cut(name, ":")
		if err := checkWhole(r.url, repo, tag, want); err != nil {
			t.Error(err)
		}
	}
	// Nothing half-written stays under a temporary name.
	left, err := os.ReadDir(filepath.Join(data, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v: %v", left, err)
	}
}

var crashClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func send(base, method, path, contentType string, body []byte) (int, error) {
	req, err := http.NewRequest(method, base+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := crashClient.Do(req)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func fetchDigest(base, path, want string) ([]byte, error) {
	resp, err := crashClient.Get(base + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if resp.StatusCode != 200 || digest(b.Bytes()) != want {
		return nil, fmt.Errorf("%s: %s, %s instead of %s", path, resp.Status, digest(b.Bytes()), want)
	}
	return b.Bytes(), nil
}

func checkWhole(base, repo, tag, want string) error {
	b, err := fetchDigest(base, "/v2/"+repo+"/manifests/"+tag, want)
	if err != nil {
		return err
	}
	var m struct {
		Config desc
		Layers []desc
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	for _, l := range append(m.Layers, m.Config) {
		if _, err := fetchDigest(base, "/v2/"+repo+"/blobs/"+l.Digest, l.Digest); err != nil {
			return fmt.Errorf("%s:%s: %w", repo, tag, err)
		}
	}
	return nil
}
