package image

import (
	"encoding/json"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

func TestApply(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ change, want string }{
		{`CMD ["a","b c"]`, `{"Cmd":["a","b c"]}`},
		{`cmd echo hi`, `{"Cmd":["/bin/sh","-c","echo hi"]}`},
		{`ENV A=1 B="x y" C=z\ z`, `{"Env":["A=1","B=x y","C=z z"]}`},
		{`ENV OLD form here`, `{"Env":["OLD=form here"]}`},
		{"ENV A=1\nENV A=2", `{"Env":["A=2"]}`},
		{`EXPOSE 80 53/udp 1000-1001`, `{"ExposedPorts":{"1000/tcp":{},"1001/tcp":{},"53/udp":{},"80/tcp":{}}}`},
		{`VOLUME ["/a","/b"]`, `{"Volumes":{"/a":{},"/b":{}}}`},
		{`WORKDIR a/../b`, `{"WorkingDir":"/b"}`},
		{`LABEL "a b"=c d=`, `{"Labels":{"a b":"c","d":""}}`},
		{`HEALTHCHECK --interval=5s --retries=3 CMD true`, `{"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Retries":3}}`},
		{`HEALTHCHECK NONE`, `{"Healthcheck":{"Test":["NONE"]}}`},
		{`ONBUILD RUN x`, `{"OnBuild":["RUN x"]}`},
	} {
		var c dockerspec.DockerOCIImageConfig
		if err := Apply(&c, []string{x.change}); err != nil {
			t.Errorf("%s: %v", x.change, err)
			continue
		}
		if got, _ := json.Marshal(c); string(got) != x.want {
			t.Errorf("%s:\n got %s\nwant %s", x.change, got, x.want)
		}
	}
	for _, bad := range []string{"FROM x", "RUN x", "ENV", "ENV X", `ENV A="`, "EXPOSE 0", "EXPOSE 80/x", "EXPOSE 9-1", "ONBUILD FROM x", "ONBUILD ONBUILD RUN x", "HEALTHCHECK nonsense", "VOLUME", "SHELL x", "HEALTHCHECK --x=1s CMD y"} {
		var c dockerspec.DockerOCIImageConfig
		if err := Apply(&c, []string{bad}); err == nil {
			t.Errorf("%s was taken: %+v", bad, c)
		}
	}
}

func FuzzApply(f *testing.F) {
	for _, s := range []string{`CMD ["a"]`, `ENV A="b c" D=e`, "EXPOSE 1-3/udp", "HEALTHCHECK --interval=1s CMD x", "ONBUILD RUN y", "LABEL a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, change string) {
		var c dockerspec.DockerOCIImageConfig
		_ = Apply(&c, []string{change})
	})
}
