// Package layer keeps the file systems of images and containers.
//
// An image's layer is unpacked once, into a directory of its own under the data-root, and never written
// again. It is known by its chain ID (OCI image-spec, config.md, "Layer ChainID"): the layer on top of
// exactly those below it. A container adds one writable directory. The overlay that joins them is mounted
// by init inside the container's own mount namespace; the host sees none of it.
//
// The life of a layer: its archive is unpacked into layers/tmp/<n>, everything of it is synced by one
// syncfs, the directory is renamed to layers/<n>, and a record in the state says which chain ID it is. A
// directory without a record never was a layer: Open throws it away. So is a layer that nobody wants any
// more: its record goes, its directory is renamed to layers/trash, and a goroutine deletes it there. Where the archive
// is kept, what was unpacked of it is used before it is on the disk, and not believed after a power cut: settle.go.
//
// On disk, below the data-root: layers/0 (always empty, the bottom of an image without layers), layers/<n>
// (n in base 36, short: see Overlay), layers/tmp, layers/trash, containers/<id>/{upper,work,lower}, the last a
// symbolic link that is never followed and whose target is the chain ID below.
package layer

// Overlay names the directories of an overlay mount. Lower, Upper and Work are relative to Base, so that
// 127 layers fit into the one page that mount(2) takes for its options.
type Overlay struct {
	Base  string   // absolute
	Lower []string // topmost first
	Upper string   // empty for a read-only view
	Work  string
}

// MaxLayers is how many layers an image may have; Docker's bound.
const MaxLayers = 127
