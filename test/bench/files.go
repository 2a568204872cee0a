package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gantry/test/engine"
)

// halfGig makes 500 MB of files that don't pack, in 2,000 pieces, in the folder $1.
const halfGig = `mkdir -p "$1" && cd "$1" && head -c 500000000 /dev/urandom | split -a 4 -d -b 250000 -`

// realFiles makes copies of the image's programs and libraries, as many files as images have, and as small ones.
const realFiles = `for i in 1 2 3; do cp -a /usr "/opt/$i" || exit; done`

// files is half a gigabyte in 2,000 files, into and out of containers and images.
var files = subject{
	title: "Files and images",
	about: "On an ext4 made for it. commit and cp: 500 MB in 2,000 files. save, load and rmi: an image of 1 GB, those files and 21,000 more in three layers. " +
		"What Gantry removes goes to its trash, as it does for its users.",
	n:    3,
	disk: true,
	prepare: func(p *pair) error {
		if err := p.load("busybox", "debian"); err != nil {
			return err
		}
		for _, e := range p.both() {
			for _, args := range [][]string{
				{"run", "--name", "work", "--network", "none", "debian", "sh", "-c", halfGig, "sh", "/work"},
				{"commit", "work", "bench/work"},
				{"run", "--name", "more", "--network", "none", "bench/work", "sh", "-c", realFiles},
				{"commit", "more", "bench/big"},
				{"rm", "more"},
				{"run", "-d", "--name", "idle", "--network", "none", "debian", "sleep", "100000"},
			} {
				if err := p.do(e, args...); err != nil {
					return err
				}
			}
			if err := forget("bench/work")(p, e); err != nil { // what is loaded is to bring all of it
				return err
			}
		}
		// Both load what Docker saved.
		if err := p.do(p.theirs, "save", "-o", p.file("big.tar"), "bench/big"); err != nil {
			return err
		}
		if err := p.do(p.theirs, "cp", "work:/work", p.file("work")); err != nil {
			return err
		}
		return nil
	},
	rows: []row{
		{name: "commit", wall: 0.5, args: words("commit work bench/made"), clean: forget("bench/made")},
		{name: "save", wall: 0.3, do: func(p *pair, e *engine.Engine) error {
			return p.do(e, "save", "-o", p.file("saved-"+e.Name), "bench/big")
		},
			clean: func(p *pair, e *engine.Engine) error { return os.Remove(p.file("saved-" + e.Name)) }},
		{name: "load", wall: 0.5, setup: forget("bench/big"), do: func(p *pair, e *engine.Engine) error { return p.do(e, "load", "-q", "-i", p.file("big.tar")) }},
		{name: "rmi", wall: 0.1, args: words("rmi bench/big"), clean: func(p *pair, e *engine.Engine) error { return p.do(e, "load", "-q", "-i", p.file("big.tar")) }},
		{name: "cp in", wall: 0.5, do: func(p *pair, e *engine.Engine) error { return p.do(e, "cp", p.file("work"), "idle:/in") },
			clean: func(p *pair, e *engine.Engine) error { return p.do(e, words("exec idle rm -r /in")...) }},
		{name: "cp out", wall: 0.5, do: func(p *pair, e *engine.Engine) error { return p.do(e, "cp", "work:/work", p.file("out-"+e.Name)) },
			clean: func(p *pair, e *engine.Engine) error { return os.RemoveAll(p.file("out-" + e.Name)) }},
	},
}

// many is what removes many containers at once.
var many = subject{
	title:   "Many containers",
	about:   "What Gantry removes goes to its trash, as it does for its users.",
	n:       3,
	prepare: func(p *pair) error { return p.load("busybox") },
	rows: []row{
		{name: "rm -f of 100 running", wall: 0.15, setup: func(p *pair, e *engine.Engine) error {
			for i := range 100 {
				if err := p.do(e, "run", "-d", "--name", fmt.Sprint("many", i), "--network", "none", "busybox", "sleep", "100000"); err != nil {
					return err
				}
			}
			return nil
		}, do: func(p *pair, e *engine.Engine) error {
			args := []string{"rm", "-f"}
			for i := range 100 {
				args = append(args, fmt.Sprint("many", i))
			}
			return p.do(e, args...)
		}},
	},
}

// file is a file beside the engines.
func (p *pair) file(name string) string { return filepath.Join(p.dir, name) }

// forget removes an image for good, so that the next time finds nothing of it.
func forget(name string) func(*pair, *engine.Engine) error {
	return func(p *pair, e *engine.Engine) error {
		args := []string{"rmi", name}
		if e == p.ours {
			args = slices.Insert(args, 1, "--now")
		}
		if err := p.do(e, args...); err != nil || e != p.ours {
			return err
		}
		// Docker's reply comes when all is deleted, Gantry's before: what is measured next is not to pay for it.
		trash := filepath.Join(e.Root, "data", "layers", "trash")
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if left, err := os.ReadDir(trash); err != nil || len(left) == 0 {
				return err
			}
		}
		return fmt.Errorf("%s is not empty yet", trash)
	}
}
