package main

import "strings"

// containers is what people do all day, without a network.
var containers = subject{
	title: "Containers",
	about: "Without a network (`--network none`), beside one idle container.",
	prepare: func(p *pair) error {
		if err := p.load("busybox"); err != nil {
			return err
		}
		for _, e := range p.both() {
			if err := p.do(e, words("run -d --name idle --network none busybox sleep 100000")...); err != nil {
				return err
			}
		}
		return nil
	},
	rows: []row{
		{name: "run --rm", wall: 1.0 / 15, args: words("run --rm --network none busybox true")},
		{name: "run -d", args: words("run -d --name bench --network none busybox sleep 1000"), after: [][]string{words("rm -f bench")}},
		{name: "exec", args: words("exec idle true")},
		{name: "start", before: [][]string{words("create --name bench --network none busybox sleep 1000")}, args: words("start bench"), after: [][]string{words("rm -f bench")}},
		{name: "stop", before: [][]string{words("run -d --init --name bench --network none busybox sleep 1000")}, args: words("stop bench"), after: [][]string{words("rm -f bench")}},
		{name: "rm -f, running", before: [][]string{words("run -d --name bench --network none busybox sleep 1000")}, args: words("rm -f bench")},
		{name: "ps", args: words("ps")},
	},
}

func words(s string) []string { return strings.Fields(s) }
