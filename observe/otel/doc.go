// Package otel fills Stem's interfaces for measuring and tracing with
// OpenTelemetry. A program that has providers already makes a Meter and a
// Tracer on them:
//
//	client, err := stem.NewClient(backend, stem.ClientOptions{
//		Meter:  otel.NewMeter(meterProvider),
//		Tracer: otel.NewTracer(tracerProvider),
//	})
//
// Others let Open make them: it sends metrics and spans to a receiver of OTLP
// over HTTP, or writes them to a log.
//
// Spans that handlers make with the same provider are children of the task's, and
// a handler may add to the task's own, which its context has. The SDK reads OTEL_*
// variables of its own, such as the limits of a span; what Options say wins.
//
// The package imports measure, observe and OpenTelemetry.
package otel
