// Package sqlite keeps everything of Stem in one SQLite file: envelopes,
// leases, dead letters, statuses and heartbeats. Several processes of one
// machine may use the file at once.
//
// It is pure Go. It imports broker, store, task and the SQLite library.
package sqlite
