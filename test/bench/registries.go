package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/test/engine"
)

// registries is images on their way: from and to a registry beside the engine, Debian's for both. The last rows
// compare the two registries, asked by the same client.
var registries = newRegistries()

const (
	pullHost, pushHost, servedHost = "127.0.0.1:5000", "127.0.0.1:5001", "127.0.0.1:5002"
	pulled                         = pullHost + "/bench/image:1"
	pushed                         = pushHost + "/bench/image:1"
)

// registriesBench is what its rows share.
type registriesBench struct {
	running map[string]*exec.Cmd // by engine and address
	small   []digest.Digest
	blob    []byte        // a large one
	large   digest.Digest // of the one that is there
}

func newRegistries() subject {
	b := &registriesBench{running: map[string]*exec.Cmd{}}
	return subject{
		title: "Registries",
		about: "An image of 460 MB in seven layers (1.5 GB of this machine's files, gzip), a Debian `docker-registry` on the engine's loopback; " +
			"in rows that begin with *registry* it is `gantry registry serve` against Debian's, asked by the same client.",
		n:       5,
		disk:    true,
		prepare: b.prepare,
		finish:  b.finish,
		rows: []row{
			{name: "pull", wall: 0.4, cpu: 0.5, args: words("pull -q " + pulled), clean: b.forget},
			{name: "push to an empty registry", wall: 0.5, setup: b.emptyRegistry, args: words("push -q " + pushed), clean: b.forgetPushed},
			{name: "registry: get 5,000 small blobs", wall: 0.5, do: b.getSmall},
			{name: "registry: put 500 small blobs", wall: 0.5, do: b.putSmall},
			{name: "registry: get a blob of 256 MB", wall: 1, do: b.getLarge},
			{name: "registry: put a blob of 256 MB", wall: 1, do: b.putLarge},
		},
	}
}

func (b *registriesBench) prepare(p *pair) error {
	image, err := makeBigImage()
	if err != nil {
		return err
	}
	store := filepath.Join(p.dir, "pull")
	for i, e := range p.both() {
		if err := b.debian(e, pullHost, store); err != nil { // two of them over one folder: engines do not see each other's loopback
			return err
		}
		if i == 0 {
			if err := image.pushTo(client(e), "http://"+pullHost, "bench/image", "1"); err != nil {
				return err
			}
		}
	}
	if err := b.start(p.ours, servedHost, exec.Command(p.ours.Program, "registry", "serve", "-l", servedHost, "-d", filepath.Join(p.dir, "ours"))); err != nil {
		return err
	}
	if err := b.debian(p.theirs, servedHost, filepath.Join(p.dir, "theirs")); err != nil {
		return err
	}
	b.blob = make([]byte, 256<<20)
	rand.NewChaCha8([32]byte{}).Read(b.blob)
	for i := range 100 {
		b.small = append(b.small, digest.FromBytes(b.blob[i<<10:(i+1)<<10]))
	}
	b.large = digest.FromBytes(b.blob)
	for _, e := range p.both() {
		for i, d := range b.small {
			if err := put(client(e), d, b.blob[i<<10:(i+1)<<10]); err != nil {
				return err
			}
		}
		if err := put(client(e), b.large, b.blob); err != nil {
			return err
		}
	}
	return nil
}

func (b *registriesBench) finish() {
	for _, cmd := range b.running {
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// client speaks to what listens on the engine's loopback.
func client(e *engine.Engine) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
		err = e.Inside(func() (err error) {
			c, err = net.Dial(network, addr)
			return err
		})
		return c, err
	}}}
}

// debian starts Debian's registry over a folder.
func (b *registriesBench) debian(e *engine.Engine, addr, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}, cache: {blobdescriptor: inmemory}}\nhttp: {addr: %q}\n", dir, addr)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	return b.start(e, addr, exec.Command("docker-registry", "serve", config))
}

func (b *registriesBench) start(e *engine.Engine, addr string, cmd *exec.Cmd) error {
	if err := e.Inside(cmd.Start); err != nil {
		return err
	}
	b.running[e.Name+addr] = cmd
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, err := client(e).Get("http://" + addr + "/v2/")
		if err == nil {
			resp.Body.Close()
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("registry at %s: %w", addr, err)
		}
	}
}

func (b *registriesBench) stop(e *engine.Engine, addr string) {
	if cmd := b.running[e.Name+addr]; cmd != nil {
		cmd.Process.Kill()
		cmd.Wait()
		delete(b.running, e.Name+addr)
	}
}

// forget removes what was pulled, and waits until nothing of it is being written or deleted any more.
func (b *registriesBench) forget(p *pair, e *engine.Engine) error {
	err := b.remove(p, e, pulled)
	exec.Command("sync").Run()
	return err
}

func (b *registriesBench) emptyRegistry(p *pair, e *engine.Engine) error {
	dir := filepath.Join(p.dir, "push-"+e.Name)
	b.stop(e, pushHost)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, args := range [][]string{{"pull", "-q", pulled}, {"tag", pulled, pushed}} {
		if err := p.do(e, args...); err != nil {
			return err
		}
	}
	exec.Command("sync").Run()
	return b.debian(e, pushHost, dir)
}

// forgetPushed makes the engine forget where it has pushed to, too.
func (b *registriesBench) forgetPushed(p *pair, e *engine.Engine) error {
	if err := b.remove(p, e, pushed, pulled); err != nil {
		return err
	}
	exec.Command("sync").Run()
	return nil
}

// remove removes images for good.
func (b *registriesBench) remove(p *pair, e *engine.Engine, names ...string) error {
	args := []string{"rmi", "-f"}
	if e == p.ours {
		args = append(args, "--now")
	}
	return p.do(e, append(args, names...)...)
}

// each runs do n times, eight at once.
func each(n int, do func(i int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				if err := do(i); err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return first
}

func (b *registriesBench) getSmall(_ *pair, e *engine.Engine) error {
	c := client(e)
	defer c.CloseIdleConnections()
	return each(5000, func(i int) error { return get(c, b.small[i%len(b.small)], 1<<10) })
}

func (b *registriesBench) putSmall(_ *pair, e *engine.Engine) error {
	c := client(e)
	defer c.CloseIdleConnections()
	salt := rand.Uint64()
	return each(500, func(i int) error {
		data := bytes.Repeat(fmt.Appendf(nil, "%x %d ", salt, i), 40)
		return put(c, digest.FromBytes(data), data)
	})
}

func (b *registriesBench) getLarge(_ *pair, e *engine.Engine) error {
	c := client(e)
	defer c.CloseIdleConnections()
	return get(c, b.large, int64(len(b.blob)))
}

func (b *registriesBench) putLarge(_ *pair, e *engine.Engine) error {
	c := client(e)
	defer c.CloseIdleConnections()
	data := b.blob
	data[rand.IntN(len(data))]++ // another blob each time
	return put(c, digest.FromBytes(data), data)
}

const servedRepo = "http://" + servedHost + "/v2/bench/blobs/blobs/"

func get(c *http.Client, d digest.Digest, size int64) error {
	resp, err := c.Get(servedRepo + d.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n != size) {
		err = fmt.Errorf("blob %s: %s, %d bytes", d, resp.Status, n)
	}
	return err
}

func put(c *http.Client, d digest.Digest, data []byte) error {
	resp, err := c.Post(servedRepo+"uploads/", "", http.NoBody)
	if err != nil {
		return err
	}
	resp.Body.Close()
	at, err := resp.Location()
	if err != nil {
		return err
	}
	sep := "?"
	if strings.Contains(at.String(), "?") {
		sep = "&"
	}
	q, err := http.NewRequest("PUT", at.String()+sep+"digest="+d.String(), bytes.NewReader(data))
	if err != nil {
		return err
	}
	if resp, err = c.Do(q); err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("put %s: %s", d, resp.Status)
	}
	return nil
}
