// Package nearest finds the word that somebody probably meant. It imports the
// standard library alone.
package nearest

import "strings"

// Word returns the candidate that is nearest to word, or "" when none is near
// enough to be what was meant. Case does not count.
func Word(word string, candidates []string) string {
	word = strings.ToLower(word)
	best, least := "", len(word)/3+2 // more edits than that: another word
	for _, c := range candidates {
		d := distance(word, strings.ToLower(c))
		if d < least && d < len(c) {
			best, least = c, d
		}
	}
	if best != "" {
		return best
	}
	for _, c := range candidates {
		if len(word) >= 3 && strings.HasPrefix(strings.ToLower(c), word) {
			return c
		}
	}
	return ""
}

// distance is how many letters must be put in, left out, replaced or swapped
// with their neighbour to make b of a.
func distance(a, b string) int {
	two, one, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range one {
		one[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := one[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(one[j]+1, row[j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], two[j-2]+1)
			}
		}
		two, one, row = one, row, two
	}
	return one[len(b)]
}
