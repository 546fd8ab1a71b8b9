// Package pair joins a broker on one store with a result store on another, and
// presents one broker.Broker whose calls move both.
//
// Two stores have no common transaction, so the order of the writes is what
// keeps the promises, and each step can be repeated:
//
//   - An outcome is recorded in the result store first, with what follows from
//     it (the outbox: follow-ups, claims to release), then settled in the
//     broker together with the follow-ups, then the outbox is cleared. Whoever
//     dies in between leaves a delivery whose lease ends; the next one's start
//     finds the recorded outcome, completes it, and executes nothing.
//   - A task is published in the broker first; its status is created after
//     that, by the publisher or by the first start, whichever comes first.
//   - A replay, a purge and a revocation act in the broker first.
//
// The broker's lease is the fence: a receipt is taken at its word only while
// its lease has time left by this process's clock, and is checked with the
// broker before anything is recorded otherwise. Behind that stands the epoch,
// which the result store compares.
//
// What is only for show (a status back to queued, a cleared outbox) is written
// after the step that counts, and repeated later when the result store is away;
// it never fails that step.
//
// The package imports broker, measure, store and task.
package pair
