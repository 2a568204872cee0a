package formatter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"gantry/internal/cli/command"
)

// Container is what inspect decodes a container into: the API's type, with the network fields that its newest version no longer has and
// that templates of many years ask for, and with addresses and ports as the text they are in JSON.
type Container struct {
	container.InspectResponse
	HostConfig *struct {
		container.HostConfig
		PortBindings map[string][]portBinding
	}
	Config *struct {
		container.Config
		ExposedPorts map[string]struct{}
	}
	NetworkSettings *struct {
		SandboxID              string
		SandboxKey             string
		Ports                  map[string][]portBinding
		Networks               map[string]*endpoint
		Bridge                 string
		HairpinMode            bool
		LinkLocalIPv6Address   string
		LinkLocalIPv6PrefixLen int
		EndpointID             string
		Gateway                string
		GlobalIPv6Address      string
		GlobalIPv6PrefixLen    int
		IPAddress              string
		IPPrefixLen            int
		IPv6Gateway            string
		MacAddress             string
	}
}

type portBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

type endpoint struct {
	network.EndpointSettings
	Gateway, IPAddress, IPv6Gateway, GlobalIPv6Address, MacAddress string
}

// Inspect prints what get returns for each name: as an array of JSON, or by a template. get returns a pointer to decode into, for the
// template, and the engine's JSON. Names that fail come as an error after the others.
func Inspect(w io.Writer, format string, names []string, get func(name string) (typed any, raw []byte, err error)) error {
	if format == "" || format == "json" {
		return inspectJSON(w, format == "", names, get)
	}
	t, err := Template("").Parse(format)
	if err != nil {
		return &command.StatusError{Text: "template parsing error: " + err.Error(), Code: 64}
	}
	var out bytes.Buffer
	var failed []string
	for _, n := range names {
		typed, raw, err := get(n)
		if err != nil {
			failed = append(failed, err.Error())
			continue
		}
		var one bytes.Buffer
		terr := json.Unmarshal(raw, typed)
		if terr == nil {
			terr = t.Execute(&one, typed)
		}
		if terr != nil {
			// What the types do not have may be in the JSON all the same: an engine newer, or older, than this client.
			var v any
			d := json.NewDecoder(bytes.NewReader(raw))
			d.UseNumber()
			if err := d.Decode(&v); err != nil {
				return fmt.Errorf("unable to read inspect data: %w", err)
			}
			one.Reset()
			loose, err := Template("").Option("missingkey=error").Parse(format)
			if err != nil {
				return fmt.Errorf("template parsing error: %w", err)
			}
			if err := loose.Execute(&one, v); err != nil {
				failed = append(failed, "template parsing error: "+err.Error())
				break
			}
		}
		out.Write(one.Bytes())
		out.WriteByte('\n')
	}
	if out.Len() == 0 && len(failed) > 0 {
		out.WriteByte('\n') // as Docker's client does
	}
	out.WriteTo(w)
	return together(failed)
}

func inspectJSON(w io.Writer, indent bool, names []string, get func(string) (any, []byte, error)) error {
	var all [][]byte
	var failed []string
	for _, n := range names {
		_, raw, err := get(n)
		if err != nil {
			failed = append(failed, err.Error())
			continue
		}
		all = append(all, bytes.TrimSpace(raw))
	}
	var out bytes.Buffer
	if len(all) == 0 {
		out.WriteString("[]")
	} else {
		array := []byte("[" + string(bytes.Join(all, []byte(","))) + "]")
		if !indent {
			out.Write(array)
		} else if err := json.Indent(&out, array, "", "    "); err != nil {
			return err
		}
	}
	out.WriteByte('\n')
	out.WriteTo(w)
	return together(failed)
}

func together(failed []string) error {
	if len(failed) == 0 {
		return nil
	}
	return errors.New(strings.Join(failed, "\n"))
}
