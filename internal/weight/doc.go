// Package weight holds what the program may weigh: which modules the core and
// each backend bring along, how many the binary has, and its size. It is tests
// alone. The linter holds which package imports which; these tests hold what
// that adds up to.
package weight
