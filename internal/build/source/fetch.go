package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
)

// Fetcher brings what lies behind an address: a file by HTTP, a repository by git.
type Fetcher struct {
	Dir    string // for what is on its way
	Client *http.Client
	Limits Limits
}

// NewFetcher returns a Fetcher that keeps what it is at below dir.
func NewFetcher(dir string) *Fetcher {
	return &Fetcher{Dir: dir, Client: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: time.Minute, TLSHandshakeTimeout: 30 * time.Second}}}
}

// Progress hears how many bytes have come, of how many (0: unknown).
type Progress func(current, total int64)

// HTTP fetches one file. A server's answer that is no success is errs.Invalid.
func (f *Fetcher) HTTP(ctx context.Context, op *graph.HTTP, authorization string, report Progress) (*Archive, error) {
	resp, err := f.get(ctx, op.URL, authorization)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a := f.reader()
	out, err := os.CreateTemp(f.Dir, "http-")
	if err != nil {
		return nil, err
	}
	os.Remove(out.Name())
	a.f = out
	name := op.Filename
	if name == "" {
		name = fileName(resp)
	}
	mode := op.Mode
	if mode == 0 {
		mode = 0o600
	}
	modified, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil {
		modified = time.Unix(0, 0)
	}
	e, err := a.stream(&counted{r: resp.Body, total: max(resp.ContentLength, 0), report: report})
	if err == nil && op.Checksum != "" && op.Checksum.Algorithm() != e.Digest.Algorithm() {
		err = errs.NotImplemented.Errorf("checksums of %s are not supported: give one of sha256", op.Checksum.Algorithm())
	}
	if err == nil && op.Checksum != "" && op.Checksum != e.Digest {
		err = errs.Invalid.Errorf("digest mismatch %s: %s", e.Digest, op.Checksum)
	}
	if err != nil {
		out.Close()
		return nil, err
	}
	e.Path, e.Mode, e.UID, e.GID, e.Mtime = name, e.Mode|mode&0o777, op.UID, op.GID, modified
	return &Archive{f: out, at: map[string]int64{name: 0}, entries: []Entry{*e}}, nil
}

func (f *Fetcher) reader() *archiveReader {
	l := f.Limits
	if l.Bytes <= 0 {
		l.Bytes = 64 << 30
	}
	if l.Entries <= 0 {
		l.Entries = 2_000_000
	}
	return &archiveReader{limits: l, found: map[string]*Entry{}, at: map[string]int64{}, buf: make([]byte, 256<<10)}
}

func (f *Fetcher) get(ctx context.Context, address, authorization string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", address, nil)
	if err != nil {
		return nil, errs.Invalid.Wrap(err)
	}
	req.Header.Set("Accept-Encoding", "identity") // the file as it is
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := f.Client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errs.Unavailable.Wrap(err)
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		resp.Body.Close()
		return nil, errs.Invalid.Errorf("invalid response status %d", resp.StatusCode)
	}
	return resp, nil
}

// fileName is what the server calls the file, or what the address does.
func fileName(resp *http.Response) string {
	if _, p, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition")); err == nil {
		if n := path.Base(path.Clean("/" + p["filename"])); n != "/" && n != "." {
			return n
		}
	}
	if n := path.Base(path.Clean("/" + resp.Request.URL.Path)); n != "/" && n != "." {
		return n
	}
	return "download"
}

// stream takes in a file of unknown length.
func (a *archiveReader) stream(r io.Reader) (*Entry, error) {
	e := &Entry{}
	sum := newSum()
	for {
		n, err := r.Read(a.buf)
		if int64(n) > a.limits.Bytes-e.Size {
			return nil, errs.Invalid.Errorf("the file is larger than %d bytes", a.limits.Bytes)
		}
		sum.Write(a.buf[:n])
		if _, werr := a.f.WriteAt(a.buf[:n], e.Size); werr != nil {
			return nil, fmt.Errorf("keep file: %w", werr)
		}
		e.Size += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, errs.Unavailable.Errorf("fetch file: %w", err)
		}
	}
	e.Mode, e.Digest = 0o100000, sum.digest()
	return e, nil
}

type counted struct {
	r        io.Reader
	n, total int64
	report   Progress
	told     time.Time
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.report != nil && (err == io.EOF || time.Since(c.told) > 100*time.Millisecond) {
		c.told = time.Now()
		c.report(c.n, c.total)
	}
	return n, err
}

// GitAuth is how a repository is reached that not everybody may read.
type GitAuth struct {
	Header     string // of HTTP: the Authorization header's value
	AgentSock  string // a socket of an SSH agent
	KnownHosts string
}

// Git fetches a repository's working tree of the commit that op names, by the host's git program. What git says is in the error.
func (f *Fetcher) Git(ctx context.Context, op *graph.Git, auth GitAuth, report func(line string)) (*Archive, error) {
	if strings.HasPrefix(op.Remote, "-") || strings.HasPrefix(op.Ref, "-") {
		return nil, errs.Invalid.Errorf("git: bad address or reference")
	}
	if _, err := exec.LookPath("git"); err != nil {
		return nil, errs.NotImplemented.Errorf("a git repository is fetched by the program git, which this host does not have")
	}
	dir, err := os.MkdirTemp(f.Dir, "git-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	g := git{ctx: ctx, dir: dir, auth: auth, f: f, report: report}
	if auth.KnownHosts != "" {
		if err := os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(auth.KnownHosts), 0o600); err != nil {
			return nil, err
		}
	}
	work := filepath.Join(dir, "work")
	if _, err := g.run("init", "-q", work); err != nil {
		return nil, err
	}
	if _, err := g.run("-C", work, "remote", "add", "origin", op.Remote); err != nil {
		return nil, err
	}
	ref := op.Ref
	if ref == "" {
		ref = "HEAD"
	}
	want := ref
	if op.FetchByCommit && op.Checksum != "" {
		want = op.Checksum
	}
	_, err = g.run("-C", work, "fetch", "-q", "--depth", "1", "--no-tags", "origin", want)
	if err != nil && isCommit(want) { // a server need not give a commit by its ID
		_, err = g.run("-C", work, "fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
	} else if err == nil {
		want = "FETCH_HEAD"
	}
	if err != nil {
		return nil, errs.Invalid.Errorf("failed to fetch remote %s: %w", redacted(op.Remote), err)
	}
	if _, err := g.run("-C", work, "-c", "advice.detachedHead=false", "checkout", "-q", want); err != nil {
		return nil, errs.Invalid.Errorf("failed to checkout remote %s: %w", redacted(op.Remote), err)
	}
	head, err := g.run("-C", work, "rev-parse", "HEAD")
	if err != nil {
		return nil, err
	}
	if head = strings.TrimSpace(head); op.Checksum != "" && !strings.HasPrefix(head, op.Checksum) {
		return nil, errs.Invalid.Errorf("expected checksum to match %s, got %s", op.Checksum, head)
	}
	if report != nil {
		report(head)
	}
	if !op.SkipSubmodules {
		if _, err := os.Stat(filepath.Join(work, ".gitmodules")); err == nil {
			if _, err := g.run("-C", work, "submodule", "update", "-q", "--init", "--recursive", "--depth=1"); err != nil {
				return nil, errs.Invalid.Errorf("failed to update submodules for %s: %w", redacted(op.Remote), err)
			}
		}
	}
	return f.folder(ctx, work, op)
}

func isCommit(s string) bool {
	return len(s) >= 7 && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func redacted(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.Redacted()
	}
	return address
}

type git struct {
	ctx    context.Context
	dir    string
	auth   GitAuth
	f      *Fetcher
	report func(string)
}

// run runs git with nothing of the host's settings or the user's.
func (g *git) run(args ...string) (string, error) {
	cmd := exec.CommandContext(g.ctx, "git", append([]string{"-c", "protocol.ext.allow=never", "-c", "core.symlinks=true"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C"}
	for _, v := range []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if x := os.Getenv(v); x != "" {
			cmd.Env = append(cmd.Env, v+"="+x)
		}
	}
	if g.auth.Header != "" { // by the environment: arguments are seen by all
		cmd.Env = append(cmd.Env, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: "+g.auth.Header)
	}
	ssh := "ssh -F /dev/null -o BatchMode=yes"
	if g.auth.KnownHosts != "" {
		ssh += " -o UserKnownHostsFile=" + filepath.Join(g.dir, "known_hosts")
	} else {
		ssh += " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
	}
	cmd.Env = append(cmd.Env, "GIT_SSH_COMMAND="+ssh)
	if g.auth.AgentSock != "" {
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+g.auth.AgentSock)
	}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		if g.ctx.Err() != nil {
			return "", g.ctx.Err()
		}
		text := strings.TrimSpace(stderr.String())
		if text == "" {
			text = err.Error()
		}
		return "", errors.New("git: " + text)
	}
	return out.String(), nil
}

// folder makes an Archive of a folder, with all times as one: a working tree's say when it was fetched.
func (f *Fetcher) folder(ctx context.Context, dir string, op *graph.Git) (*Archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	sub := strings.Trim(path.Clean("/"+op.Subdir), "/")
	if sub == "" {
		sub = "."
	}
	if fi, err := root.Stat(sub); err != nil {
		return nil, errs.NotFound.Errorf("invalid subdir %v: not found", op.Subdir)
	} else if !fi.IsDir() {
		return nil, errs.Invalid.Errorf("invalid subdir %v: not a directory", op.Subdir)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(packFolder(root, sub, pw, !op.KeepGitDir)) }()
	a, err := ReadArchive(ctx, pr, f.Dir, f.Limits)
	pr.CloseWithError(context.Canceled)
	return a, err
}

func packFolder(root *os.Root, sub string, w io.Writer, dropGit bool) error {
	base, err := root.OpenRoot(sub)
	if err != nil {
		return err
	}
	defer base.Close()
	tw := tar.NewWriter(w)
	var walk func(dir string) error
	walk = func(dir string) error {
		d, err := base.Open(dir)
		if err != nil {
			return err
		}
		list, err := d.ReadDir(-1)
		d.Close()
		if err != nil {
			return err
		}
		for _, x := range list {
			p := path.Join(dir, x.Name())
			if dropGit && x.Name() == ".git" {
				continue
			}
			fi, err := base.Lstat(p)
			if err != nil {
				return err
			}
			link := ""
			if fi.Mode()&os.ModeSymlink != 0 {
				if link, err = base.Readlink(p); err != nil {
					return err
				}
			} else if !fi.IsDir() && !fi.Mode().IsRegular() {
				continue
			}
			h, err := tar.FileInfoHeader(fi, link)
			if err != nil {
				return err
			}
			h.Name, h.ModTime = p, time.Unix(0, 0)
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			if fi.Mode().IsRegular() {
				in, err := base.Open(p)
				if err != nil {
					return err
				}
				_, err = io.Copy(tw, in)
				in.Close()
				if err != nil {
					return err
				}
			}
			if fi.IsDir() {
				if err := walk(p); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk("."); err != nil {
		return err
	}
	return tw.Close()
}
