// Package observe has what every exporter of measurements needs: the bounds of
// labels, and the gauges that describe a whole store. The exporters are its
// folders: prom for Prometheus, otel for OpenTelemetry and the console, admin
// for the listener of operators' machinery, systemd for its supervisor.
//
// It imports the contracts and the standard library.
package observe
