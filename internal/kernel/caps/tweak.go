package caps

import (
	"strings"

	"gantry/internal/errs"
)

// every is the word that stands for all capabilities in --cap-add and --cap-drop.
const every = "ALL"

// Parse reads a list of names as --cap-add and --cap-drop take them: in any case, with or without "CAP_".
// all tells that the list has the word ALL, which is not put into the set.
//
// A name that is not a capability, and one that the host cannot give (see Host), is an error of kind Invalid
// in the words of Docker.
func Parse(list []string, host Set) (s Set, all bool, err error) {
	for _, name := range list {
		if strings.EqualFold(name, every) {
			all = true
			continue
		}
		c, ok := Lookup(name)
		if !ok {
			return 0, false, errs.Invalid.Errorf("unknown capability: %q", normal(name))
		}
		if !host.Has(c) {
			return 0, false, errs.Invalid.Errorf("capability not supported by your kernel or not available in the current environment: %q", c.String())
		}
		s |= 1 << c
	}
	return s, all, nil
}

// Validate checks the lists of --cap-add and --cap-drop when a container is created. Errors are of kind
// Invalid and say which list is wrong: `invalid CapAdd: unknown capability: "CAP_X"`.
func Validate(host Set, add, drop []string) error {
	if _, _, err := Parse(add, host); err != nil {
		return errs.Invalid.Errorf("invalid CapAdd: %w", err)
	}
	if _, _, err := Parse(drop, host); err != nil {
		return errs.Invalid.Errorf("invalid CapDrop: %w", err)
	}
	return nil
}

// Tweak returns the capabilities of a container: base (Default, as a rule) changed by the lists of --cap-add
// and --cap-drop, or everything for a privileged one; and never more than host has, for the kernel would
// refuse the rest.
//
// The lists combine as in Docker. A privileged container gets everything, whatever the lists say. ALL in add
// gives everything but what drop names, and "drop ALL" is then without effect; ALL in drop gives just what
// add names. Otherwise drop is taken away first and add is put in afterwards, so that a name in both is kept.
//
// Errors are those of Validate.
func Tweak(base Set, privileged bool, add, drop []string, host Set) (Set, error) {
	if privileged {
		return host, nil
	}
	if err := Validate(host, add, drop); err != nil {
		return 0, err
	}
	added, addAll, _ := Parse(add, host)
	dropped, dropAll, _ := Parse(drop, host)
	switch {
	case addAll:
		return host &^ dropped, nil
	case dropAll:
		return added, nil
	}
	return base&host&^dropped | added, nil
}
