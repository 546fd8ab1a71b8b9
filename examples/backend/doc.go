// Package backend is the smallest broker that keeps the rules: one list under
// one mutex, in which every call looks at every task. It is there to be read
// beside docs/writing-a-backend.md, and as a start for a backend of your own;
// it keeps no statuses, and is not fast. Its test is the conformance suite.
package backend
