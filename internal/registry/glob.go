package registry

// matchAny reports whether one of the patterns matches name.
func matchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if match(p, name) {
			return true
		}
	}
	return false
}

// match is for patterns of repositories and tags: "?" is one character and "*" any number, both but "/"; "**" takes
// "/" as well.
func match(pattern, name string) bool {
	// Where to try again, should what follows the last star not fit: at most one star of each kind is worth keeping,
	// for a later one can take what an earlier one could.
	var star, starAt, deep, deepAt = -1, 0, -1, 0
	p, n := 0, 0
	for {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			if p+1 < len(pattern) && pattern[p+1] == '*' {
				p += 2
				deep, deepAt, star = p, n, -1
			} else {
				p++
				star, starAt = p, n
			}
			continue
		case n == len(name) && p == len(pattern):
			return true
		case n < len(name) && p < len(pattern) && (pattern[p] == name[n] || pattern[p] == '?' && name[n] != '/'):
			p, n = p+1, n+1
			continue
		}
		switch {
		case star >= 0 && starAt < len(name) && name[starAt] != '/':
			starAt++
			p, n = star, starAt
		case deep >= 0 && deepAt < len(name):
			deepAt++
			p, n, star = deep, deepAt, -1
		default:
			return false
		}
	}
}
