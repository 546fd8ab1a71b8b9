// Package admin serves what operators' machinery asks of a process, on a
// listener of its own:
//
//	/metrics        the metrics, where a handler is given
//	/healthz        200 while the process and its loops live
//	/readyz         200 while it can do its work, else 503 with the reason
//	/debug/pprof/   profiles, only when asked for
//
// Liveness never touches the store: a store that is away must not make a
// cluster restart its workers.
//
// The package imports the standard library only, and not net/http/pprof: that
// package puts its handlers on http.DefaultServeMux of every program that
// links it.
package admin
