// Package docs is the project's documentation. Its Go code is tests alone, which
// follow the operations guide from top to bottom, and run what the runbook says to
// look at.
package docs
