// Package broker is the contract of what holds envelopes and hands them out:
// a small interface, its numbered rules, and the optional powers that a
// backend may have beyond it.
//
// # The rules
//
// Each rule has a conformance test of the same number in brokertest, which
// every backend passes. "The store's clock" is the one clock that all clients
// of a store share; no rule depends on a client's own.
//
// Publishing:
//
//   - B1  Publish returns when every envelope it reports as Stored survives
//     what the backend says it survives (for SQLite, a power cut). An error
//     means that nothing is known of any of the batch.
//   - B2  An id that the broker holds (ready, delayed, leased or dead), or
//     whose terminal status the same store keeps, is not stored again: Exists.
//     Publishing the same batch twice stores it once.
//   - B3  One bad item fails alone; its neighbours are stored.
//   - B4  A claim whose key is held by another task is Duplicate, with that
//     task's id, and nothing of the item is stored. Claim and envelope are one
//     step. A claim ends after its time, or when the task that holds it is
//     settled with it in Release; one without a time also when that task is
//     purged, or revoked before anybody holds it. Nobody else can release it.
//   - B5  A field that asks for a power the broker lacks (limits, holds,
//     groups) is refused with ErrUnsupported for that item, never dropped; as
//     a follow-up it fails its settlement with that error.
//
// Receiving:
//
//   - B6  Exchange never blocks on an empty queue. It returns at most
//     want.Count deliveries and, past the first, at most want.Bytes of them.
//   - B7  Each delivery is leased to this consumer alone until its lease ends.
//     A lease has an epoch; each lease and each replay of a task has a higher
//     one than all before, for the life of the task.
//   - B8  A lease that ended without settlement makes the task deliverable
//     again, in its old place, with Redelivered set, within one second, by
//     whichever consumer exchanges next.
//   - B9  A delayed task is not delivered before its moment, by the store's
//     clock, and is delivered by the first Exchange after it.
//   - B10 Within a queue higher priorities come first; within one priority,
//     first published first delivered. Release without a moment keeps the
//     place.
//   - B11 Queues are served in the order of want.Queues: what stands earlier
//     comes first. A pattern stands for every queue it matches, also those
//     that appear later.
//   - B12 Batch.Next is how long until the next delayed task is due or the
//     next lease ends in the subscribed queues, at most what Wait may sleep;
//     Batch.More says that more was ready than was taken.
//   - B13 Wait returns when work became ready for this consumer, at the latest
//     after atMost; it carries no tasks, and ending it loses none. Making one
//     batch ready need not wake every waiter, but never none. A task stored
//     with a moment nearer than a second is on time as well for who waits
//     already: he is woken when it is stored, or when it is due.
//
// Settling:
//
//   - B14 Settle and Exchange apply each settlement whole or not at all:
//     state, follow-ups, claims, and, where the broker keeps statuses, the
//     status, in one atomic step.
//   - B15 A settlement or renewal whose epoch is not that of the task's newest
//     lease, or whose task is settled or given back, is ErrLeaseLost and
//     changes nothing. One whose lease has ended, but whose task nobody took
//     since, still succeeds.
//   - B16 Any process settles by receipt: it needs no consumer, and a receipt
//     survives ParseReceipt(r.String()).
//   - B17 Queued (release) gives the task back uncounted: attempt, errors and
//     starts stay; with NotBefore it waits until then, and starts are reset
//     and Redelivered cleared.
//   - B18 Retried waits until NotBefore with the settlement's attempt, its
//     error remembered, starts reset and Redelivered cleared.
//   - B19 Failed moves the task to the dead letters with reason, error and
//     times. Succeeded and Cancelled end it. Each is kept as a status for
//     Outcome.Keep where the broker keeps statuses; that of one that succeeded or
//     was cancelled lacks its args if task.KeepsArgs says so.
//   - B20 Follow-ups are published in the settlement's step; an id that exists
//     already, or a claim that another task holds, is no error, and nothing is
//     stored for it. A follow-up that cannot be stored fails the settlement.
//   - B21 Renew with Start counts a start, once for each lease, and makes the
//     task running, without the progress of the run before; it and every
//     renewal extend the lease to Extend, or to the task's own length, from now.
//   - B22 A start that finds the task's outcome stored already completes it
//     and says ErrSettled: the caller must not execute it. (Only a broker
//     joined with another store can meet this.)
//   - B23 Closing a consumer gives back in place, uncounted, what it holds and
//     has not started, and leaves what has started to its lease.
//   - B24 An entry that is no envelope is delivered once leased like any
//     other, with Malformed set and the id it was stored under, so that a
//     worker dead-letters it; it never stops its neighbours.
//
// Operating:
//
//   - B25 Queues reports every queue that holds anything (or the named ones,
//     also those that hold nothing), by name: ready, delayed and of these the
//     due soon (DueSoon), leased, dead, and the age of the oldest ready.
//   - B26 Purge removes ready and delayed tasks only, never leased or dead
//     ones, a page at a time, and reports the ids.
//   - B27 Dead letters are listed newest first by filter, in pages; replayed
//     atomically (never both dead and live, never neither) with attempt kept,
//     retries fresh, epoch raised and replays counted; purged by filter. A dry
//     run changes nothing and reports the same count. An edited envelope takes
//     the place of the old one in the replay's step, for good, and is reported
//     with it; one that does not fit (ReplayOptions.Check,
//     DeadLetter.CheckEdit, the size limit) is refused, and nothing changes. A
//     broker without PowerEdit refuses any with ErrUnsupported.
//   - B28 After Close every call returns ErrClosed, and waiting calls return.
//   - B29 A cancelled context ends a call with its error; what the call would
//     have done is done whole or not at all.
//   - B30 Methods of a Broker are safe for concurrent use. A Consumer belongs
//     to one goroutine, but Wait may run beside Exchange.
//   - B31 Queued with Reserved gives the task back as B17 does, but that starts
//     and Redelivered stay also with NotBefore. Its next delivery says Reserved,
//     with that moment, if there was one, as its NotBefore. The mark is of one
//     lease: it stays when that one is given back unstarted (B23), and is gone
//     when the lease ends without settlement, or the task is settled otherwise.
//     While it has the mark the task's status says task.MetaRateLimited.
//
// Powers (each tested where it is declared):
//
//   - P1  Revoker: a task that nobody holds is cancelled at once and never
//     delivered; of a leased one its consumer learns with its next exchange,
//     and waiting consumers are woken for it; a terminal one is TooLate. A
//     leased one that is given back, or whose lease ends, is cancelled, or its
//     next consumer is told with the delivery. An outcome ends the revocation:
//     a replay is a new decision. Until then a RevocationLister lists it, to
//     every process, and a RevocationTeller says it to whoever has the receipt.
//   - P2  AtomicWith: where it is true, the store's Get shows each of the
//     broker's moves as soon as the call that made it returned, and a Watcher
//     of it tells of each.
//   - P3  Owner: Holds is true from the Publish that stored a task until the
//     call that ends it, dead-letters it, revokes or purges it, and again after
//     a replay; it is false for what the broker never had.
//   - P4  DeadImporter: an imported dead letter is as it was before it was
//     exported: listed at its place by DeadAt, counted, shown as failed where
//     statuses are kept, replayed under a higher epoch. Each is stored whole or
//     not at all; an id that is known (B2) is ErrExists, and neither it nor a bad
//     entry stops its neighbours. A moment of death in the future is now.
//   - P5  Pauser: after Pause returned nothing of a paused queue is leased, by
//     whomever, also by a pattern, until Resume; More does not count what is
//     ready there, nor is anybody woken for it. All else goes on: publishing,
//     delays, renewals, settlements, purges, replays; what is given back waits
//     in its place. Resume wakes who waits for the
//     queue. Pauses last as long as the tasks do, and every process sees them.
//   - P6  Overlapping: as many calls of Exchange as it says may be under way at
//     once, none of which settles or renews what another does. No delivery is in
//     two of their answers. Of a revocation the consumer learns with one of them,
//     that which brings the delivery or a later one. When all have returned, what
//     was ready and not taken wakes a wait as B13 says.
package broker
