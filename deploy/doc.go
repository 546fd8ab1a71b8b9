// Package deploy is what runs Stem elsewhere: images, units, manifests, rules and
// a dashboard. Its Go code is tests alone, which hold each of these files, and
// the pages of docs/runbook, to the program that they are for: every command,
// flag, variable and metric in them exists.
package deploy
