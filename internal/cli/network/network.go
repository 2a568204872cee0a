// Package network is the verbs of networks, one file each.
package network

import (
	"errors"
	"strings"
)

// each does f for every name; failures come together after the others.
func each(names []string, f func(string) error) error {
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
