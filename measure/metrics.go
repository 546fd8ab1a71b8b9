package measure

var (
	byTask    = []string{"task", "queue"}
	byOutcome = []string{"task", "queue", "outcome"}
	byReason  = []string{"queue", "reason"}
	byQueue   = []string{"queue"}
	byWorker  = []string{"worker"}
	byName    = []string{"task"}
	byBeat    = []string{"beat"}
	byBackend = []string{"backend", "operation"}
)

// The metrics of tasks.
var (
	TasksEnqueued     = &Metric{"stem.tasks.enqueued", KindCounter, byTask, "Tasks stored by an enqueue."}
	TasksDeduplicated = &Metric{"stem.tasks.deduplicated", KindCounter, byTask, "Enqueues answered with a task that was there already."}
	TasksUnknown      = &Metric{"stem.tasks.unknown", KindCounter, byTask, "Deliveries of a name that this worker does not know."}
	TasksStarted      = &Metric{"stem.tasks.started", KindCounter, byTask, "Handlers started."}
	TasksSucceeded    = &Metric{"stem.tasks.succeeded", KindCounter, byTask, "Tasks whose result was stored."}
	TasksFailed       = &Metric{"stem.tasks.failed", KindCounter, byTask, "Tasks dead-lettered."}
	TasksRetried      = &Metric{"stem.tasks.retried", KindCounter, byTask, "Attempts that failed and will be repeated."}
	TasksExpired      = &Metric{"stem.tasks.expired", KindCounter, byTask, "Tasks not executed since they were past their expiry."}
	TasksRevoked      = &Metric{"stem.tasks.revoked", KindCounter, byTask, "Tasks stopped by a revocation."}
	TasksRateLimited  = &Metric{"stem.tasks.rate_limited", KindCounter, byTask, "Deliveries that a rate limit put off."}
	TasksBadSignature = &Metric{"stem.tasks.signature_invalid", KindCounter, byTask, "Tasks dead-lettered for their signature."}
	TasksLeaseLost    = &Metric{"stem.tasks.lease_lost", KindCounter, byTask, "Deliveries whose lease passed to another worker."}
	TasksRedelivered  = &Metric{"stem.tasks.redelivered", KindCounter, byTask, "Deliveries of a task whose earlier lease ended without an outcome."}
	TaskDuration      = &Metric{"stem.task.duration", KindHistogram, byOutcome, "Time in the handler."}
	TaskQueueTime     = &Metric{"stem.task.queue_time", KindHistogram, byOutcome, "From enqueued, or due, to the handler's start."}
	TaskLateness      = &Metric{"stem.task.lateness", KindHistogram, byOutcome, "From a delayed task's moment to the handler's start."}
)

// The metrics of dead letters and queues.
var (
	DLQAdded       = &Metric{"stem.dlq.added", KindCounter, byReason, "Dead letters added."}
	DLQReplayed    = &Metric{"stem.dlq.replayed", KindCounter, byReason, "Dead letters replayed by this process; queue and reason are those it was asked for, empty for all."}
	DLQPurged      = &Metric{"stem.dlq.purged", KindCounter, byReason, "Dead letters purged by this process; queue and reason are those it was asked for, empty for all."}
	DLQDepth       = &Metric{"stem.dlq.depth", KindGauge, byQueue, "Dead letters held."}
	QueueDepth     = &Metric{"stem.queue.depth", KindGauge, byQueue, "Tasks ready."}
	QueueDelayed   = &Metric{"stem.queue.delayed", KindGauge, byQueue, "Tasks waiting for their moment."}
	QueueOldestAge = &Metric{"stem.queue.oldest_age", KindGauge, byQueue, "Seconds since the oldest ready task became ready."}
)

// The metrics of workers and backends.
var (
	IsolatesActive  = &Metric{"stem.worker.isolates.active", KindGauge, byWorker, "Isolates executing a handler."}
	IsolatesTotal   = &Metric{"stem.worker.isolates.total", KindGauge, byWorker, "Isolates of the worker."}
	IsolatesLost    = &Metric{"stem.worker.isolates.lost", KindGauge, byWorker, "Handlers past their hard limit that have not returned."}
	WorkerInflight  = &Metric{"stem.worker.inflight", KindGauge, byWorker, "Deliveries held."}
	WorkerPrefetch  = &Metric{"stem.worker.prefetched", KindGauge, byWorker, "Deliveries held and not started."}
	HeartbeatAge    = &Metric{"stem.worker.heartbeat_age", KindGauge, byWorker, "Seconds since the last heartbeat was stored."}
	LeaseRenewed    = &Metric{"stem.lease.renewed", KindCounter, byWorker, "Leases renewed."}
	LeaseLost       = &Metric{"stem.lease.lost", KindCounter, byWorker, "Leases lost."}
	BrokerRoundtrip = &Metric{"stem.broker.roundtrip", KindHistogram, byBackend, "Time of a call to the broker."}
	BrokerErrors    = &Metric{"stem.broker.errors", KindCounter, byBackend, "Calls to the broker that failed."}
	OrphansFixed    = &Metric{"stem.orphans.fixed", KindCounter, byQueue, "Tasks put back by the reconciler; normally none."}
)

// The metrics of the scheduler. A firing that a store refuses as a second of the
// same moment is a duplicate: more than none means that something is wrong.
var (
	BeatDrift         = &Metric{"stem.beat.drift", KindHistogram, byName, "From when a moment was to fire to when it fired."}
	BeatFired         = &Metric{"stem.beat.fired", KindCounter, byName, "Due moments whose task was enqueued."}
	BeatFailed        = &Metric{"stem.beat.failed", KindCounter, byName, "Due moments whose task could not be enqueued."}
	BeatMisfired      = &Metric{"stem.beat.misfired", KindCounter, byName, "Due moments passed over by the misfire policy."}
	BeatOverlapped    = &Metric{"stem.beat.overlapped", KindCounter, byName, "Due moments passed over since the task before had not ended."}
	BeatDuplicates    = &Metric{"stem.beat.duplicates", KindCounter, byName, "Due moments whose task was there already; normally none."}
	BeatLockHeld      = &Metric{"stem.beat.lock.held", KindGauge, byBeat, "1 while this beat leads."}
	BeatLockContended = &Metric{"stem.beat.lock.contended", KindCounter, byBeat, "Looks of a beat that stands by: another leads."}
	BeatLockLost      = &Metric{"stem.beat.lock.lost", KindCounter, byBeat, "Times that a leading beat found another in its place."}
)

// All lists every metric, in the order of the documentation.
func All() []*Metric {
	return []*Metric{
		TasksEnqueued, TasksDeduplicated, TasksUnknown, TasksStarted, TasksSucceeded, TasksFailed, TasksRetried,
		TasksExpired, TasksRevoked, TasksRateLimited, TasksBadSignature, TasksLeaseLost, TasksRedelivered,
		TaskDuration, TaskQueueTime, TaskLateness,
		DLQAdded, DLQReplayed, DLQPurged, DLQDepth, QueueDepth, QueueDelayed, QueueOldestAge,
		IsolatesActive, IsolatesTotal, IsolatesLost, WorkerInflight, WorkerPrefetch, HeartbeatAge,
		LeaseRenewed, LeaseLost, BrokerRoundtrip, BrokerErrors, OrphansFixed,
		BeatDrift, BeatFired, BeatFailed, BeatMisfired, BeatOverlapped, BeatDuplicates,
		BeatLockHeld, BeatLockContended, BeatLockLost,
	}
}
