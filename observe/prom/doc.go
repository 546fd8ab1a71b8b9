// Package prom counts what Stem does for Prometheus. An Exporter is a
// measure.Meter with a registry of its own, and serves it:
//
//	exporter := prom.New(prom.Options{Version: "1.0.0"})
//	worker := stem.NewWorker(client, stem.WorkerOptions{Meter: exporter})
//	http.Handle("/metrics", exporter.Handler())
//
// docs/metrics.md lists every metric with the name it has here. Labels are
// bounded, so that names from outside cannot fill the memory of a worker or of
// the server that reads it.
//
// The package imports measure, observe and the Prometheus client.
package prom
