package main

// networks is containers on the default bridge.
var networks = subject{
	title:   "Networks",
	about:   "On the default bridge.",
	prepare: func(p *pair) error { return p.load("busybox") },
	rows: []row{
		{name: "run --rm, bridge", wall: 1.0 / 12, cpu: 1.0 / 8, args: words("run --rm busybox true")},
		{name: "run -d -p, bridge", args: words("run -d --name bench -p 18080:80 busybox sleep 1000"), after: [][]string{words("rm -f bench")}},
	},
}
