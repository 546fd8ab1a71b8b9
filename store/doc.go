// Package store is the contract of what keeps records: statuses with their
// results, workers' heartbeats, the scheduler's entries (Schedules, rules
// T1–T11), and locks with fencing tokens (Locks, rules L1–L6).
//
// # The rules
//
// Each rule has a conformance test of the same number in storetest, which
// every backend passes.
//
//   - S1  Create stores a status that is not there yet; for one that is, it
//     changes nothing and answers ErrExists.
//   - S2  Update applies when its epoch is at least the record's: a start
//     makes the task running under that epoch and worker, without the progress
//     of the run before, and is counted once for each epoch; progress replaces
//     the last. An older epoch is ErrStale and changes nothing. A start of an
//     id without a record creates it; progress never does.
//   - S3  A start whose task has a stored outcome of the same attempt (a
//     terminal one whose replay count is not below the delivery's, or a retry
//     whose outbox is not cleared and whose attempt is above the delivery's)
//     answers that outcome with its outbox, raises the epoch, and leaves the
//     state as it is.
//   - S4  Record applies an outcome when its epoch is at least the record's
//     and the move is legal, where a queued or retried record stands for a run
//     whose start was not reported; else ErrStale, and nothing changes.
//     Recording the same outcome twice (same id, epoch and state) is no error.
//   - S5  Record keeps follow-ups and claims to release as an outbox in the same
//     step, and marks a retry even without them. Clear removes the outbox when
//     the record still has that epoch; so does a start of a later attempt. A
//     record with an outbox does not expire, and with Keep 0 goes by Clear.
//   - S6  Requeue makes a failed task queued with the given epoch, replay count
//     and moment, and only once for each replay count. With an envelope it also
//     shows that one's args, meta and retries; so does the start of a replay of
//     which the store had not heard.
//   - S7  A terminal status is kept for its retention, and gone (ErrNotFound)
//     within two seconds after it; Keep 0 removes it at once; Forever keeps it.
//     A failed one stays until Delete or Requeue.
//   - S8  Get returns what it finds, in the order asked for, with ErrNotFound
//     where there is none. It sees what an earlier call stored.
//   - S9  List returns newest first by EnqueuedAt, then the highest id first,
//     in pages that neither repeat nor skip a record that did not change;
//     filters agree with Query.Match; a scan is bounded and says so.
//   - S10 Delete removes terminal records only; of others it answers
//     ErrNotFinished.
//   - S11 A status keeps the newest ten attempts' errors, the first KiB of its
//     args (none, if task.KeepsArgs says so, once it has succeeded or is
//     cancelled), and its result byte for byte.
//   - S12 Subscribe's channel receives after each change of that task that
//     happened after Subscribe returned; changes may be merged, the last one is
//     never lost.
//   - S13 A heartbeat is listed until its TTL has passed, newest per worker;
//     one that says Stopped takes its worker off the list.
//   - S14 After Close every call returns broker.ErrClosed.
//   - S15 All methods are safe for concurrent use; a cancelled context ends a
//     call with its error.
//
// BeatFollower, where a Heartbeats has it:
//
//   - H1  Each heartbeat that is stored after Follow returned comes within a
//     second, by whichever process, those that say Stopped included; of several
//     of one worker that were not read in time the newest is enough. Nothing
//     waits for who follows. Next ends with its context, and with
//     broker.ErrClosed after Close of the stream, or of the backend.
//
// Control, where a backend has it:
//
//   - C1  A command reaches each worker that listens, and whose id matches To,
//     once, within a second, in the order in which they were asked; and nobody
//     else. Several listeners of one id each hear it.
//   - C2  Who begins to listen after Ask returned does not hear it.
//   - C3  A reply reaches who asked, once, within a second, and nobody else; its
//     Worker is the listener's own, whatever the reply says. One that comes after
//     Replies was closed is dropped, and is no error.
//   - C4  A command that was not delivered within For, by the store's clock, is
//     not delivered at all. Nothing waits for a listener that does not read; up
//     to 256 commands, and for who asks 4,096 replies, are kept for it.
//   - C5  What does not pass Check is refused with task.ErrInvalid, and nothing
//     is sent.
//   - C6  Next ends with its context, and with broker.ErrClosed after Close of
//     the stream, or of the backend. Close may be called again.
//
// Limiter, where a broker has it:
//
//   - R1  A key has as many slots in any span as its rate has in that time, and
//     its burst besides; a key that nobody used has its burst at once. Who cannot
//     have one now gets the next that is free, and it is his alone.
//   - R2  Slots of one key are given in the order in which they are asked for,
//     within a batch and over batches, in whichever process; none begins before
//     it is asked for. At is by the store's clock, and Wait agrees with it. Where
//     that clock is set back by more than a second, the lines go back with it
//     (StepBack): nobody waits for the clock to come where it was.
//   - R3  Keys do not touch each other. A rate that changes counts from the next
//     reservation on.
//   - R4  Who asks Again has a line of its own, with the rate and without the
//     burst, and neither line moves the other. So both together give at most
//     twice the rate, and that only while there is something to catch up with.
//   - R5  A reservation that does not pass Check takes no slot and fails alone.
//   - R6  Methods are safe for concurrent use; a cancelled context ends a call
//     with its error; after Close of the broker each returns broker.ErrClosed. A
//     key that is idle takes no room for ever.
//
// Memos (M1–M4) and Audit (U1–U4) have their rules beside them.
package store
