// Package layer keeps the file systems of images and containers.
//
// An image's layer is unpacked once, into a directory of its own under the data-root, and never written
// again. It is known by its chain ID (OCI image-spec, config.md, "Layer ChainID"): the layer on top of
// exactly those below it. A container adds one writable directory. The overlay that joins them is mounted
// by init inside the container's own mount namespace; the host sees none of it.
package layer

// Overlay names the directories of an overlay mount. Lower, Upper and Work are relative to Base, so that
// 127 layers fit into the one page that mount(2) takes for its options.
type Overlay struct {
	Base  string   // absolute
	Lower []string // topmost first
	Upper string   // empty for a read-only view
	Work  string
}
