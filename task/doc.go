// Package task holds the words every other package speaks: the [Envelope]
// that carries one task, the [Status] that says what became of it, the [State]
// it is in with the one table of legal moves, and the wire format of both.
//
// It is the leaf of the program: it imports the standard library and a UUID
// generator, and nothing of Stem. A producer in another language that writes
// what docs/wire.md specifies writes what this package reads.
package task
