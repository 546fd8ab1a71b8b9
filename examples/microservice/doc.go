// Package microservice holds the test of the three programs below it: it runs
// them as processes on a Redis of their own. README.md says what they are.
package microservice
