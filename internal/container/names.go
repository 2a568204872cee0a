package container

import (
	"math/rand/v2"

	"gantry/internal/errs"
)

// nameChars is how Docker describes a valid name in its error.
const nameChars = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

// validName reports whether name, without a leading slash, may name a container: at least two characters.
func validName(name string) bool {
	if len(name) < 2 {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// checkName returns name without its leading slash.
func checkName(name string) (string, error) {
	bare := name
	if len(bare) > 0 && bare[0] == '/' {
		bare = bare[1:]
	}
	if !validName(bare) {
		return "", errs.Invalid.Errorf("Invalid container name (%s), only %s are allowed", name, nameChars)
	}
	return bare, nil
}

// randomName makes a name for a container that was given none: an adjective and the surname of someone
// who made computing, networks or ships' cranes what they are.
func randomName() string {
	return adjectives[rand.IntN(len(adjectives))] + "_" + surnames[rand.IntN(len(surnames))]
}

var adjectives = [...]string{
	"agile", "amber", "ample", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "careful", "cheerful",
	"clear", "clever", "coastal", "cosy", "crisp", "curious", "daring", "deft", "eager", "early", "earnest", "easy",
	"even", "fair", "faithful", "festive", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "graceful",
	"handy", "happy", "hardy", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow",
	"merry", "mild", "modest", "neat", "nimble", "noble", "patient", "plucky", "polite", "prompt", "proud", "quick",
	"quiet", "ready", "serene", "sharp", "silent", "silver", "smart", "snug", "solid", "spry", "steady", "sturdy",
	"sunny", "swift", "tidal", "tidy", "trusty", "upbeat", "vivid", "warm", "willing", "wise", "witty", "zesty",
}

var surnames = [...]string{
	"aalto", "abramson", "aiken", "allen", "archimedes", "armstrong", "atanasoff", "backus", "baran", "bartik", "bell", "bourne",
	"brunel", "cailliau", "cerf", "church", "clarke", "cocke", "conway", "cray", "dahl", "davies", "deering", "diffie",
	"dijkstra", "eckert", "engelbart", "feinler", "floyd", "gosling", "hamming", "hellman", "hoare", "holberton", "hopper", "huffman",
	"iverson", "jacobson", "joy", "kahan", "kahn", "karp", "kay", "keller", "kernighan", "kilburn", "kleene", "kleinrock",
	"knuth", "lampson", "lamport", "liskov", "lovelace", "mauchly", "mccarthy", "mcilroy", "metcalfe", "mockapetris", "naur", "nygaard",
	"ossanna", "perlis", "perlman", "pike", "postel", "rabin", "ritchie", "sammet", "shannon", "stevens", "sutherland", "tarjan",
	"thacker", "thompson", "torvalds", "turing", "tukey", "wheeler", "wilkes", "wilkinson", "wirth", "yao", "zemanek", "zuse",
}
