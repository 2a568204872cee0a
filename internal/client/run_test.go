package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"gantry/internal/runstream"
)

// engineThatRuns answers a create that asks for a run with frames.
func engineThatRuns(t *testing.T, frames string) *Client {
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get(runstream.Header); got != "stdout=1&wait=removed" {
			t.Errorf("asked for %q", got)
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\n\r\n"+frames)
	})
}

func ask(c *Client) (container.CreateResponse, *Run, error) {
	return c.ContainerRun(context.Background(), "", "", container.CreateRequest{}, RunOptions{Attach: AttachOptions{Stdout: true}, Wait: "removed"})
}

func TestRunInOneExchange(t *testing.T) {
	t.Parallel()
	made := frame(runstream.Created, `{"Id":"abc","Warnings":["w"]}`)
	c := engineThatRuns(t, made+frame(runstream.Started, `{}`)+frame(1, "out")+frame(2, "err")+frame(runstream.Ended, `{"StatusCode":3}`)+frame(1, "not read"))
	created, run, err := ask(c)
	if err != nil || created.ID != "abc" || len(created.Warnings) != 1 {
		t.Fatalf("%+v, %v", created, err)
	}
	var out bytes.Buffer
	if err := run.Copy(&out, nil); err != nil || out.String() != "out" {
		t.Errorf("%q, %v", &out, err)
	}
	if err := run.Started(context.Background()); err != nil {
		t.Error(err)
	}
	if res := <-run.Ended(); res.Err != nil || res.Response.StatusCode != 3 {
		t.Errorf("%+v", res)
	}

	// It does not start.
	c = engineThatRuns(t, made+frame(runstream.Started, `{"status":409,"message":"no"}`)+frame(runstream.Ended, `{"StatusCode":128}`))
	if _, run, err = ask(c); err != nil {
		t.Fatal(err)
	}
	go run.Copy(nil, nil)
	if err := run.Started(context.Background()); !IsStatus(err, 409) || err.Error() != "Error response from daemon: no" {
		t.Error(err)
	}
	if res := <-run.Ended(); res.Err != nil || res.Response.StatusCode != 128 {
		t.Errorf("%+v", res)
	}
}

func TestARunThatBreaks(t *testing.T) {
	t.Parallel()
	made := frame(runstream.Created, `{"Id":"abc"}`)
	for _, frames := range []string{"", made[:5], frame(1, "first"), frame(runstream.Created, "no JSON")} {
		if _, _, err := ask(engineThatRuns(t, frames)); err == nil {
			t.Errorf("%q: no error", frames)
		}
	}
	for _, rest := range []string{"", frame(1, "out"), frame(runstream.Started, "no JSON"), frame(99, "x")} {
		_, run, err := ask(engineThatRuns(t, made+rest))
		if err != nil {
			t.Fatal(err)
		}
		go run.Copy(io.Discard, nil)
		if err := run.Started(context.Background()); err == nil && rest != frame(99, "x") {
			t.Errorf("%q: started", rest)
		}
		if res := <-run.Ended(); res.Err == nil {
			t.Errorf("%q: ended", rest)
		}
	}
}

func TestRunByAnEngineThatCreates(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/containers/create") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `{"Id":"abc","Warnings":[]}`)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	created, run, err := ask(c)
	if err != nil || run != nil || created.ID != "abc" {
		t.Fatalf("%+v, %v, %v", created, run, err)
	}
	if err := c.ContainerStart(context.Background(), created.ID, ""); err != nil {
		t.Error(err)
	}
}

// Who interrupts a run hears the engine out: there may be a container by then.
func TestInterruptedRun(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(context.Background())
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		interrupt()
		io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\n\r\n"+frame(runstream.Created, `{"Id":"abc"}`)+frame(runstream.Started, `{}`)+frame(runstream.Ended, `{}`))
	})
	created, run, err := c.ContainerRun(ctx, "", "", container.CreateRequest{}, RunOptions{Wait: "removed"})
	if err != nil || created.ID != "abc" {
		t.Fatalf("%+v, %v", created, err)
	}
	if err := run.Copy(nil, nil); err != nil {
		t.Error(err)
	}
}
