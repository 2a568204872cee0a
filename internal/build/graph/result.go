package graph

import (
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// Result is a build: a sealed graph, and the images to make of it.
type Result struct {
	Graph *Graph
	// Outputs has an image for each platform that was asked for, in that order.
	Outputs []Output
	// Warnings are what the front end finds odd, in the order of the lines.
	Warnings []Warning
	// Steps are the instructions of the stages that are built, in the order of the Dockerfile, for Docker's classic progress
	// ("Step 2/5 : RUN make"). It is those of the first output.
	Steps []Step
	// UnusedArgs are the build arguments that no ARG asked for, sorted, but for those of proxies.
	UnusedArgs []string
	// Epoch is SOURCE_DATE_EPOCH: no time in the image may be later. The times in Config and its history are set
	// already; those in layers are the exporter's. Nil without one.
	Epoch *time.Time
}

// Output is the image for one platform.
type Output struct {
	Platform Platform
	// Root is the file system.
	Root Edge
	// Config is all of the image's configuration but RootFS, which is the exporter's to write. Created, and that of
	// the history entries of this build, is nil for the exporter to fill, unless there is an Epoch. History starts with
	// the base image's.
	Config dockerspec.DockerOCIImage
	// Base is the configuration of the image that the target stage comes from, nil for scratch. Its history is the first
	// part of Config's.
	Base *dockerspec.DockerOCIImage
	// Layers says for each entry of Config.History which vertex's change it tells of: nil for an entry with EmptyLayer and
	// for those of the base image. The vertex is the File or Exec itself, for a COPY --link the File whose output is merged
	// in. An exporter whose vertex changed nothing may mark the entry as EmptyLayer.
	Layers []*Vertex
}

// Warning is what a check of the front end has to say.
type Warning struct {
	// Rule is the check's name, "StageNameCasing".
	Rule string
	// Message is about this very place, Description about the rule.
	Message, Description string
	// URL is where the rule is explained.
	URL string
	// Source are the lines, in the Dockerfile.
	Source []Range
}

// Step is one instruction, as a person counts them.
type Step struct {
	// Text is the instruction as it stands in the Dockerfile, on one line.
	Text   string
	Stage  string
	Source []Range
	// Trigger is set for what an ONBUILD of the base image brought. The classic progress doesn't count these.
	Trigger bool
	// Vertex is what it makes; nil if it only changes the configuration, or for FROM scratch.
	Vertex *Vertex
}
