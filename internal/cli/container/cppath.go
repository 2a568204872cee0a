package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// copyEnd is one end of a copy.
type copyEnd struct {
	path   string
	exists bool
	isDir  bool
	rebase string // the name that the copy gets instead of the path's last element; empty: none
}

func isDot(path string) bool    { return filepath.Base(path) == "." }
func hasSlash(path string) bool { return strings.HasSuffix(path, "/") }

// keepEnd gives a cleaned path the slash or dot that the original had at its end: they say that a directory is meant, or what
// is in it.
func keepEnd(cleaned, original string) string {
	if !isDot(cleaned) && isDot(original) {
		if !hasSlash(cleaned) {
			cleaned += "/"
		}
		cleaned += "."
	}
	if !hasSlash(cleaned) && hasSlash(original) {
		cleaned += "/"
	}
	return cleaned
}

func resolveLocal(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return keepEnd(abs, path), nil
}

// splitEntry cuts off the last element, which is a dot where the path ends in one.
func splitEntry(path string) (dir, base string) {
	cleaned := filepath.Clean(path)
	if isDot(path) {
		cleaned += "/."
	}
	return filepath.Dir(cleaned), filepath.Base(cleaned)
}

// rebaseName goes from path to what it leads to; the name is what path called it, if that is another.
func rebaseName(path, resolved string) (string, string) {
	if isDot(path) && !isDot(resolved) {
		resolved += "/."
	}
	if hasSlash(path) && !hasSlash(resolved) {
		resolved += "/"
	}
	if filepath.Base(path) != filepath.Base(resolved) {
		return resolved, filepath.Base(path)
	}
	return resolved, ""
}

// copySource looks at what is to be copied from this machine.
func copySource(path string, follow bool) (copyEnd, error) {
	var e copyEnd
	if follow {
		resolved, err := filepath.EvalSymlinks(path)
		if err != nil {
			return e, err
		}
		e.path, e.rebase = rebaseName(path, resolved)
	} else {
		dir, base := filepath.Split(path)
		resolved, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return e, err
		}
		e.path = strings.TrimSuffix(resolved, "/") + "/" + base
		if hasSlash(path) && filepath.Base(path) != filepath.Base(e.path) {
			e.rebase = filepath.Base(path)
		}
	}
	fi, err := os.Lstat(e.path)
	if err != nil {
		return e, err
	}
	e.exists, e.isDir = true, fi.IsDir()
	return e, nil
}

// copyTarget looks at where a copy goes on this machine, links followed.
func copyTarget(path string) (copyEnd, error) {
	original := path
	for range 10 {
		fi, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			parent, _ := splitEntry(path)
			if _, err := os.Lstat(parent); err != nil {
				return copyEnd{}, err
			}
			return copyEnd{path: path}, nil
		case err != nil:
			return copyEnd{}, err
		case fi.Mode()&fs.ModeSymlink == 0:
			return copyEnd{path: path, exists: true, isDir: fi.IsDir()}, nil
		}
		target, err := os.Readlink(path)
		if err != nil {
			return copyEnd{}, err
		}
		if !filepath.IsAbs(target) {
			parent, _ := splitEntry(path)
			target = filepath.Join(parent, target)
		}
		path = target
	}
	return copyEnd{}, fmt.Errorf("maximum number of symbolic links exceeded: %s", original)
}

// prepare decides into which directory the copy goes, and what name its top gets there; empty leaves it.
func (from copyEnd) prepare(to copyEnd) (dir, rename string, err error) {
	parent, base := splitEntry(to.path)
	switch {
	case to.exists && to.isDir:
		return to.path, "", nil
	case to.exists && from.isDir:
		return "", "", errors.New("cannot copy directory")
	case !to.exists && !from.isDir && (hasSlash(to.path) || isDot(to.path)):
		return "", "", errors.New("no such directory")
	}
	return parent, base, nil
}
