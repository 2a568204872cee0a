package graph

import (
	"errors"
	"fmt"
)

// File is a list of actions on file systems. An action refers to a file system by an index: 0 … len(Inputs)-1 are the
// vertex's inputs, len(Inputs)+i is what action i (an earlier one) left behind, and Scratch is the empty one.
type File struct {
	Actions []Action
}

// Action is one change to a file system. Exactly one of Copy, MkFile, MkDir, Rm and Symlink is set.
type Action struct {
	// Input is the file system that is changed.
	Input int
	// From is where Copy takes from.
	From int
	// Output is the number of the file system that comes out, or NoOutput if only later actions use it. Outputs are
	// numbered from 0 without gaps.
	Output int

	Copy    *Copy
	MkFile  *MkFile
	MkDir   *MkDir
	Rm      *Rm
	Symlink *Symlink
}

// Copy copies files and directories, with times, modes and extended attributes. All paths are inside the roots, with links
// resolved there.
type Copy struct {
	// Src and Dest are absolute and clean, but for a slash at Dest's end, which means that Dest is a directory.
	Src, Dest string
	// Owner replaces owner and group of all that is copied; nil keeps them.
	Owner *Owner
	// Mode replaces the permission bits of all that is copied: octal ("0644") or chmod(1)'s symbols ("u=rwX,go=rX"). ""
	// keeps them.
	Mode string
	// FollowLinks copies what Src points to if it is a link.
	FollowLinks bool
	// Contents copies what is in Src, not Src itself, if it is a directory.
	Contents bool
	// Unpack unpacks Src if it is an archive (plain or compressed by gzip, bzip2, xz or zstd), and copies it otherwise.
	Unpack bool
	// CreateDest makes the directories on the way to Dest, of mode 0755, owned by Owner.
	CreateDest bool
	// Wildcard lets Src have the wildcards of filepath.Match; EmptyWildcard lets it match nothing.
	Wildcard, EmptyWildcard bool
	// Include, if there is any, are patterns of moby/patternmatcher, relative to Src, of what is copied; Exclude of what is
	// not, even if Include has it. Directories that are only on the way to what is included come along.
	Include, Exclude []string
	// Required are paths, relative to Src, that must be there. They only matter if there is an Include.
	Required []string
	// Replace lets what is copied take the place of something of another type.
	Replace bool
	// Timestamp, Unix seconds, is the modification time of all that is copied; nil keeps them.
	Timestamp *int64
}

// MkFile writes a file, in place of one that is there.
type MkFile struct {
	Path      string
	Mode      uint32
	Data      []byte
	Owner     *Owner
	Timestamp *int64
}

// MkDir makes a directory. It is not an error if it is there, and then it stays as it is.
type MkDir struct {
	Path string
	Mode uint32
	// Parents makes the directories on the way, too, equally.
	Parents   bool
	Owner     *Owner
	Timestamp *int64
}

// Rm removes a path and all below it.
type Rm struct {
	Path string
	// AllowNotFound lets Path be missing.
	AllowNotFound bool
	// Wildcard lets Path have the wildcards of filepath.Match.
	Wildcard bool
}

// Symlink makes a symbolic link New that points to Old.
type Symlink struct {
	Old, New  string
	Owner     *Owner
	Timestamp *int64
}

// Owner is a user and a group. Without User it is root, uid 0. Without Group it is the user's own: the primary
// group of /etc/passwd for a user by name, the same number for one by number.
type Owner struct {
	User, Group *Principal
}

// Principal is a user or a group: by number, or by name.
type Principal struct {
	// Name, unless it is "", is looked up in /etc/passwd or /etc/group of the file system Input.
	Name  string
	Input int
	// Required fails the action if the name isn't found (Docker's classic builder). Otherwise it then counts as 0, as
	// BuildKit has it: FROM scratch has no /etc/passwd.
	Required bool
	ID       uint32
}

// Kind implements Op.
func (*File) Kind() string { return "file" }

func (o *File) outputs() int {
	n := 0
	for _, a := range o.Actions {
		if a.Output != NoOutput {
			n++
		}
	}
	return n
}

func (o *File) check(inputs int) error {
	if len(o.Actions) == 0 {
		return errors.New("no actions")
	}
	seen := make([]bool, o.outputs())
	for i, a := range o.Actions {
		known := func(n int) bool { return n >= Scratch && n < inputs+i }
		if !known(a.Input) || !known(a.From) {
			return fmt.Errorf("action %d: no such input", i)
		}
		n := 0
		var owner *Owner
		if a.Copy != nil {
			n, owner = n+1, a.Copy.Owner
		}
		if a.MkFile != nil {
			n, owner = n+1, a.MkFile.Owner
		}
		if a.MkDir != nil {
			n, owner = n+1, a.MkDir.Owner
		}
		if a.Rm != nil {
			n++
		}
		if a.Symlink != nil {
			n, owner = n+1, a.Symlink.Owner
		}
		if n != 1 {
			return fmt.Errorf("action %d: want one thing to do, have %d", i, n)
		}
		if owner != nil {
			for _, p := range []*Principal{owner.User, owner.Group} {
				if p != nil && p.Name != "" && !known(p.Input) {
					return fmt.Errorf("action %d: no such input to look up %q in", i, p.Name)
				}
			}
		}
		if a.Output == NoOutput {
			continue
		}
		if a.Output < 0 || a.Output >= len(seen) || seen[a.Output] {
			return fmt.Errorf("action %d: outputs are not numbered from 0 without gaps", i)
		}
		seen[a.Output] = true
	}
	if len(seen) == 0 {
		return errors.New("no output")
	}
	return nil
}

// Merge lays all its inputs over each other, the last on top; the layers of the result are those of the inputs, in
// order. A directory in two is both together, anything else is the upper one's.
type Merge struct{}

// Diff is what has to be changed to make Upper of Lower: what Merge of Lower and Diff is Upper again. Both are indices
// into Inputs, or Scratch.
type Diff struct {
	Lower, Upper int
}

// Kind implements Op.
func (*Merge) Kind() string { return "merge" }

// Kind implements Op.
func (*Diff) Kind() string { return "diff" }

func (*Merge) outputs() int { return 1 }
func (*Diff) outputs() int  { return 1 }

func (*Merge) check(inputs int) error {
	if inputs < 2 {
		return fmt.Errorf("want two inputs or more, have %d", inputs)
	}
	return nil
}

func (o *Diff) check(inputs int) error {
	if o.Lower < Scratch || o.Lower >= inputs || o.Upper < Scratch || o.Upper >= inputs {
		return errors.New("no such input")
	}
	return nil
}
