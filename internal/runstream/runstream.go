// Package runstream is how Gantry's command line asks Gantry's engine for all of `run` at once.
//
// Docker's API has four requests for it: create, attach, wait, start. Each costs both sides a turn, and a turn costs more than most of
// what is done in it. So the command line adds a header to the create, which other engines do not look at: they answer 201, and it goes on
// with the other three. This engine answers 101 when the container is made, takes the connection over, and does the
// rest unasked. What the client sends then is stdin; what it gets are frames as of an attach (eight bytes of header: the stream, three of
// zero, the length in big endian), whether there is a terminal or not, and between them frames of these streams:
//
//	Created   JSON of container.CreateResponse, first of all
//	Started   JSON of Outcome: the container runs, or why it does not
//	Ended     JSON of container.WaitResponse, last of all, where a wait was asked for
package runstream

// Header asks for it. Its value is a query: stdin, stdout, stderr (1 each) and detachKeys, as of an attach, and wait, the condition of a
// wait. Without a stream nothing is attached.
const Header = "Gantry-Run"

// Streams of the frames, beside Docker's 0 to 3.
const (
	Created = 16
	Started = 17
	Ended   = 18
)

// Outcome is what a start's own reply would have said. A Status of 0 is success.
type Outcome struct {
	Status  int    `json:"status,omitempty"` // of HTTP
	Message string `json:"message,omitempty"`
}
