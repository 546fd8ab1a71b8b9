// Package connect turns URLs and the environment into backends. It is the only
// place that knows all of them, and the only one that reads STEM_* variables;
// a program that wants one backend alone imports that and leaves this out.
//
//	backend, err := connect.Open(ctx, connect.Options{Broker: "sqlite:stem.db"})
//	if err != nil { … }
//	defer backend.Close()
//	client, err := stem.NewClient(backend, stem.ClientOptions{})
//
// Configuration comes from one table, Variables: it drives Load, "stem config"
// and docs/configuration.md.
package connect
