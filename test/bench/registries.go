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

// registries is images on their way: from and to a registry beside the engine, Debian's for both.
var registries = newRegistries()

// registryServers compares the two registries, asked by the same client.
var registryServers = newRegistryServers()

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
	next    digest.Digest // of the one that is put next
	bare    string        // the address of one who sends the large one without HTTP
	peak    map[*engine.Engine]int64
}

func newRegistries() subject {
	b := &registriesBench{running: map[string]*exec.Cmd{}, peak: map[*engine.Engine]int64{}}
	return subject{
		title:   "Registries",
		about:   "An image of 460 MB in seven layers (1.5 GB of this machine's files, gzip), a Debian `docker-registry` on the engine's loopback.",
		n:       5,
		disk:    true,
		prepare: b.prepare,
		finish:  b.finish,
		rows: []row{
			{name: "pull", wall: 0.4, cpu: 0.5, setup: b.watchMemory, args: words("pull -q " + pulled), clean: b.forget},
			{name: "push to an empty registry", wall: 0.5, setup: b.emptyRegistry, args: words("push -q " + pushed), clean: b.forgetPushed},
		},
		after: b.memory,
	}
}

func newRegistryServers() subject {
	b := &registriesBench{running: map[string]*exec.Cmd{}}
	return subject{
		title: "Registry servers",
		about: "`gantry registry serve` against Debian's `docker-registry`, asked by the same client. In the row \"against a bare connection\" " +
			"the other side is a program that does nothing but send the same file by sendfile(2).",
		n:       5,
		disk:    true,
		prepare: b.prepareServers,
		finish:  b.finish,
		rows: []row{
			{name: "get 5,000 small blobs", wall: 0.5, do: b.getSmall},
			{name: "put 500 small blobs", wall: 0.5, do: b.putSmall},
			{name: "get a blob of 256 MB", wall: 1.1, do: b.getLarge},
			{name: "get a blob of 256 MB, against a bare connection", wall: 1.1, do: b.getBare},
			{name: "put a blob of 256 MB", wall: 1, setup: b.another, do: b.putLarge},
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
	return nil
}

func (b *registriesBench) prepareServers(p *pair) error {
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
	file := filepath.Join(p.dir, "bare")
	if err := os.WriteFile(file, b.blob, 0o600); err != nil {
		return err
	}
	return p.ours.Inside(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		b.bare = l.Addr().String()
		go sendToAll(l, file)
		return nil
	})
}

// sendToAll sends a file to everyone who connects.
func sendToAll(l net.Listener, file string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if f, err := os.Open(file); err == nil {
			io.Copy(c, f)
			f.Close()
		}
		c.Close()
	}
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
	n, err := peakMemory(e.Pid())
	if err != nil {
		return err
	}
	b.peak[e] = max(b.peak[e], n)
	err = b.remove(p, e, pulled)
	exec.Command("sync").Run()
	return err
}

// watchMemory makes the kernel count the peak of the daemon's memory anew.
func (b *registriesBench) watchMemory(_ *pair, e *engine.Engine) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", e.Pid()), []byte("5"), 0)
}

// memory tells of the pulls what the rows do not.
func (b *registriesBench) memory(p *pair) string {
	text := ""
	for _, e := range p.both() {
		n := b.peak[e]
		if n == 0 {
			continue
		}
		text += fmt.Sprintf("\nThe most memory that the %s daemon had resident during a pull: %d MB", e.Name, n/1e6)
		if e.Name == "gantry" {
			text += " (goal: below 150 MB)"
		}
		text += ".\n"
	}
	return text
}

// peakMemory is the most memory, in bytes, that a process has had resident, its program included.
func peakMemory(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}

func (b *registriesBench) emptyRegistry(p *pair, e *engine.Engine) error {
	dir := filepath.Join(p.dir, "push-"+e.Name)
	b.stop(e, pushHost)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if engine.Run(p.command(e, "inspect", pulled)).Code != 0 {
		if err := p.do(e, "pull", "-q", pulled); err != nil {
			return err
		}
	}
	if err := p.do(e, "tag", pulled, pushed); err != nil {
		return err
	}
	exec.Command("sync").Run()
	return b.debian(e, pushHost, dir)
}

// forgetPushed removes the name alone: that an engine knows where it has pushed to spares it nothing with a registry that is empty.
func (b *registriesBench) forgetPushed(p *pair, e *engine.Engine) error {
	if err := b.remove(p, e, pushed); err != nil {
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

func (b *registriesBench) getBare(p *pair, e *engine.Engine) error {
	if e == p.ours {
		return b.getLarge(p, e)
	}
	var c net.Conn
	err := p.ours.Inside(func() (err error) {
		c, err = net.Dial("tcp", b.bare)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	n, err := drain(c)
	if err == nil && n != int64(len(b.blob)) {
		err = fmt.Errorf("%d bytes came", n)
	}
	return err
}

// another makes the large blob one that no registry has.
func (b *registriesBench) another(*pair, *engine.Engine) error {
	b.blob[rand.IntN(len(b.blob))]++
	b.next = digest.FromBytes(b.blob)
	return nil
}

func (b *registriesBench) putLarge(_ *pair, e *engine.Engine) error {
	c := client(e)
	defer c.CloseIdleConnections()
	return put(c, b.next, b.blob)
}

// drain reads to the end, in pieces large enough not to be what is measured.
func drain(r io.Reader) (n int64, err error) {
	buf := make([]byte, 256<<10)
	for {
		m, err := r.Read(buf)
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

const servedRepo = "http://" + servedHost + "/v2/bench/blobs/blobs/"

func get(c *http.Client, d digest.Digest, size int64) error {
	resp, err := c.Get(servedRepo + d.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := drain(resp.Body)
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
