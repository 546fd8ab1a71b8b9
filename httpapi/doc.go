// Package httpapi serves a client's tasks over HTTP: enqueueing, statuses,
// operating, and a pull API with which workers in any language take tasks. It
// also has the Go client of that API, through which declared tasks are enqueued
// as through a stem.Client.
//
// docs/api.md is the manual, and every server serves its own OpenAPI document
// at /openapi.json. One table (routes.go) has every route with its role, its
// types and its words; the mux, the checks, the document and the tests are made
// of it.
//
// A request goes through Server.ServeHTTP (call.go), which checks host, origin,
// token and role, decodes the body (decode.go) and logs; the handler gets a
// call and returns an answer or an error, of which problem.go makes the reply.
// What a puller leases goes through a line (line.go): one consumer for each set
// of queues, owned by one goroutine.
package httpapi
