package command

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/docker/go-units"

	"gantry/internal/registry"
	"gantry/internal/registry/disk"
)

// collect is `registry gc`: it asks the registry that runs over the folder to collect, which disturbs nobody, or does it itself where
// none runs.
func collect(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	o, fs := flags()
	fs.StringVarP(&o.user, "user", "u", "", "Of gc: ask the running registry as this user, who has the right admin; the password comes from stdin")
	cfg, level, err := o.parse(fs, args, os.Getenv, out)
	if err != nil {
		return err
	}
	var got registry.Collected
	st, err := disk.Open(cfg.Data)
	switch {
	case err == nil:
		defer st.Close()
		s, err := registry.New(cfg, st, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: max(level, slog.LevelWarn)})))
		if err != nil {
			return err
		}
		defer s.Close()
		if got, err = s.Collect(ctx); err != nil {
			return err
		}
	case errors.Is(err, disk.ErrUsed):
		if got, err = askToCollect(ctx, cfg, o.user, in); err != nil {
			return err
		}
	default:
		return err
	}
	fmt.Fprintf(out, "Deleted tags: %d, manifests: %d, blobs: %d, uploads: %d\nFreed: %s, kept: %s in %d blobs\n",
		got.Tags, got.Manifests, got.Blobs, got.Uploads, units.HumanSize(float64(got.Freed)), units.HumanSize(float64(got.KeptBytes)), got.Kept)
	return nil
}

func askToCollect(ctx context.Context, cfg registry.Config, user string, in io.Reader) (got registry.Collected, err error) {
	host, port, err := net.SplitHostPort(cmp.Or(cfg.Listen, ":5000"))
	if err != nil {
		return got, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http"
	transport := &http.Transport{}
	switch cfg.TLS.Mode {
	case "auto":
		pem, err := os.ReadFile(registry.CAFile(cfg.Data))
		if err != nil {
			return got, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		scheme, transport.TLSClientConfig = "https", &tls.Config{RootCAs: pool}
	case "files":
		scheme = "https"
	}
	q, err := http.NewRequestWithContext(ctx, "POST", scheme+"://"+net.JoinHostPort(host, port)+"/_gantry/collect", http.NoBody)
	if err != nil {
		return got, err
	}
	if user != "" {
		password, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && err != io.EOF {
			return got, err
		}
		q.SetBasicAuth(user, strings.TrimRight(password, "\r\n"))
	}
	resp, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		return got, fmt.Errorf("ask the registry that uses %s: %w", cfg.Data, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return got, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return got, json.Unmarshal(body, &got)
	case http.StatusUnauthorized, http.StatusForbidden:
		return got, fmt.Errorf("the registry at %s wants a user with the right admin: give --user, and the password on stdin", q.URL.Host)
	}
	return got, fmt.Errorf("the registry at %s answered %s: %s", q.URL.Host, resp.Status, body)
}
