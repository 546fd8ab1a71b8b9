// Package redistest starts real redis-server processes for tests: single ones
// with or without append-only files and TLS, Sentinel with replicas, and
// Cluster. Each has free ports, a unix socket and a directory of its own, and
// is ended by its process id when the test ends, or when the test's process
// dies.
//
// A machine without redis-server fails the tests that need it, with the command
// that installs it; "make test" runs that command.
package redistest
