package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
)

// WriteOutput copies r to the file path, or to stdout if that is empty. The file is there whole or not at all.
func WriteOutput(env *Env, path string, r io.Reader) (err error) {
	if path == "" {
		_, err := io.Copy(env.IO.Out, r)
		return err
	}
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0) // a FIFO, /dev/null
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".docker_temp_")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// CheckOutput refuses a terminal and a place that no file can be written to.
func CheckOutput(env *Env, path, verb string) error {
	if path == "" {
		if env.IO.OutIsTerminal() {
			return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
		}
		return nil
	}
	dir := filepath.Dir(filepath.Clean(path))
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return fmt.Errorf("failed to %s: invalid output path: directory %q does not exist", verb, dir)
	}
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return fmt.Errorf("failed to %s: invalid output path: %q must be a regular file: got a directory", verb, path)
	}
	return nil
}

// Each does f for every name; failures come together after the others.
func Each(names []string, f func(string) error) error {
	var failed []string
	for _, n := range names {
		if err := f(n); err != nil {
			failed = append(failed, err.Error())
		}
	}
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n"))
	}
	return nil
}

// Removed lists what a prune removed, if anything.
func Removed(env *Env, title string, gone []string) {
	if len(gone) > 0 {
		fmt.Fprintf(env.IO.Out, "%s\n%s\n\n", title, strings.Join(gone, "\n"))
	}
}

// Reclaimed says how much room a removal made.
func Reclaimed(env *Env, bytes uint64) {
	fmt.Fprintln(env.IO.Out, "Total reclaimed space:", units.HumanSize(float64(bytes)))
}

// Confirm asks; anything but y or yes is a no.
func Confirm(env *Env, question string) bool {
	fmt.Fprint(env.IO.Out, question+"\nAre you sure you want to continue? [y/N] ")
	line, _ := bufio.NewReader(env.IO.In).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true
	}
	return false
}
