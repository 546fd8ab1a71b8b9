// Package schedule says when: it is pure time, and knows neither tasks nor
// stores.
//
// A [Definition] is what a person writes, as text or as an object of a file:
//
//	every:5m
//	cron:TZ=Europe/Berlin 0 2 * * MON-FRI
//	solar:sunset@52.52,13.4-15m
//	clocked:2027-01-01T00:00:00Z
//
// A [Spec] is what it means: Next gives the first moment after another one, and
// is a function of that moment alone. Two machines that ask the same of the same
// definition get the same answer, which is what lets any number of schedulers run
// beside each other.
//
// What is accepted is bounded. No spec, however hostile its text, makes Next walk
// for long; one that can never fire, such as a 30th of February, is accepted and
// says never.
//
// What happens on the days on which clocks change is a rule, written in
// docs/scheduling.md and held by tests against an oracle that walks through real
// minutes in every time zone there is.
//
// # Time zones
//
// The rules of the time zones are part of the program: this package embeds them
// (time/tzdata, 450 KB), and is the one place that does. A spec that one machine
// accepts and another refuses, since its image lacks a directory, would be worse
// than the bytes. A system's own rules, where it has them, go first, so that a
// change of law needs an update of the system and no new program.
//
// The package imports the standard library alone. Its values are immutable, and
// may be used by many goroutines at once, [Loader] included.
package schedule
