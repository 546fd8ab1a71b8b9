// Package check decodes the manifests of deploy/ into the types of those who
// will read them. It is tests alone, and a module of its own, so that those
// types weigh on nothing else.
package check
