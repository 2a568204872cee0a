// Package nearest guesses which of the names that there are was meant by one that there is not.
package nearest

import "strings"

// longest is how long a name may be to be guessed at; a foreign one must not cost much.
const longest = 64

// To returns the name to which typed has the fewest edits, the first of several, when it is near enough to have been
// meant; "" otherwise. Upper and lower case are one.
func To(typed string, names []string) string {
	best, least := "", max(2, len(typed)/3)+1
	for _, n := range names {
		if d := distance(strings.ToLower(typed), strings.ToLower(n)); d < least && d < len(n) {
			best, least = n, d
		}
	}
	return best
}

// distance is how many letters to change, add, drop or swap make b of a (optimal string alignment).
func distance(a, b string) int {
	if len(a) > longest || len(b) > longest {
		return longest
	}
	var before, last []int
	for j := 0; j <= len(b); j++ {
		last = append(last, j)
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
