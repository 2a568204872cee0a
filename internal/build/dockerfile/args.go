package dockerfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"gantry/internal/build/graph"
)

// globals computes the variables of FROM lines: the predefined ones (which a build argument of that name overrides), and
// the ARGs before the first FROM.
func (c *converter) globals(stages []instructions.Stage, args []instructions.ArgCommand, target string) error {
	if target == "" {
		target = "default"
	}
	build := normalize(c.o.BuildPlatform)
	predefined := func() *env {
		e := newEnv(nil)
		for _, kv := range [][2]string{
			{"BUILDPLATFORM", build.String()},
			{"BUILDOS", build.OS},
			{"BUILDOSVERSION", build.OSVersion},
			{"BUILDARCH", build.Architecture},
			{"BUILDVARIANT", build.Variant},
			{"TARGETPLATFORM", formatAll(c.target)},
			{"TARGETOS", c.target.OS},
			{"TARGETOSVERSION", c.target.OSVersion},
			{"TARGETARCH", c.target.Architecture},
			{"TARGETVARIANT", c.target.Variant},
			{"TARGETSTAGE", target},
		} {
			v := kv[1]
			if o, ok := c.o.BuildArgs[kv[0]]; ok {
				v = o
			}
			e.set(kv[0], v)
		}
		return e
	}
	// A FROM should also make sense if nobody gives arguments.
	defaults := predefined()
	if err := c.addGlobals(defaults, args, nil); err == nil {
		c.checkDefaultBases(stages, defaults)
	}
	c.global, c.declared = predefined(), map[string]bool{}
	if err := c.addGlobals(c.global, args, c.o.BuildArgs); err != nil {
		return err
	}
	for _, a := range args {
		for _, kv := range a.Args {
			c.declared[kv.Key] = true
		}
	}
	c.proxy = proxyOf(c.o.BuildArgs)
	v, ok := c.o.BuildArgs["SOURCE_DATE_EPOCH"]
	if !ok {
		v, _ = c.global.Get("SOURCE_DATE_EPOCH")
	}
	if v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return fmt.Errorf("invalid SOURCE_DATE_EPOCH: %s", v)
		}
		t := time.Unix(n, 0).UTC()
		c.epoch = &t
	}
	return nil
}

func (c *converter) addGlobals(e *env, args []instructions.ArgCommand, given map[string]string) error {
	for _, cmd := range args {
		for _, kv := range cmd.Args {
			if v, ok := given[kv.Key]; ok {
				e.set(kv.Key, v)
				continue
			}
			if kv.Value == nil {
				continue
			}
			r, err := c.expand(c.lex, *kv.Value, e)
			if err != nil {
				return parser.WithLocation(err, cmd.Location())
			}
			e.set(kv.Key, r.Result)
		}
	}
	return nil
}

// unusedArgs are the build arguments that neither the file's head nor a stage that was built declares.
func (c *converter) unusedArgs() []string {
	var unused []string
	for name := range c.o.BuildArgs {
		if slices.Contains(proxies, strings.ToLower(name)) || c.declared[name] || strings.HasPrefix(name, "BUILDKIT_") || name == "SOURCE_DATE_EPOCH" ||
			slices.ContainsFunc(c.stages, func(s *stage) bool { return s.argIndex[name] }) {
			continue
		}
		if _, predefined := c.global.Get(name); !predefined {
			unused = append(unused, name)
		}
	}
	slices.Sort(unused)
	return unused
}

var proxies = []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"}

// proxyOf takes the arguments for proxies, which every RUN gets without an ARG, and no history shows.
func proxyOf(args map[string]string) *graph.Proxy {
	p := graph.Proxy{}
	for i, value := range []*string{&p.HTTP, &p.HTTPS, &p.FTP, &p.No, &p.All} {
		// Lower case wins, as with most programs that read these.
		for _, name := range []string{strings.ToUpper(proxies[i]), proxies[i]} {
			if v, ok := args[name]; ok {
				*value = v
			}
		}
	}
	if p == (graph.Proxy{}) {
		return nil
	}
	return &p
}
