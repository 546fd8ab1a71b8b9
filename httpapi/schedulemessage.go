package httpapi

import (
	"encoding/json"
	"time"

	"github.com/stemjobs/stem/beat"
)

// ScheduleEntry is a schedule as it is asked for. docs/scheduling.md has the
// rules.
type ScheduleEntry struct {
	ID          string           `json:"id,omitempty" doc:"1–128 of A-Z a-z 0-9 . _ : -."`
	Description string           `json:"description,omitempty"`
	Task        string           `json:"task" doc:"The name of the task that it enqueues."`
	Spec        json.RawMessage  `json:"spec" doc:"When: text such as every:5m or 0 2 * * *, or an object of cron and timezone, every, solar with latitude and longitude, or clocked."`
	Args        json.RawMessage  `json:"args,omitempty" doc:"The task's argument; null unless given."`
	Options     *ScheduleOptions `json:"options,omitempty" doc:"Of each enqueue."`
	Jitter      string           `json:"jitter,omitempty" doc:"Each moment is put off by less than that, such as 30s."`
	StartAt     time.Time        `json:"startAt,omitzero" doc:"No moment before that (RFC 3339)."`
	EndAt       time.Time        `json:"endAt,omitzero" doc:"No moment after that (RFC 3339)."`
	Misfire     *ScheduleMisfire `json:"misfire,omitempty" doc:"What becomes of moments that passed while no beat ran."`
	Overlap     string           `json:"overlap,omitempty" enum:"allow,skip,queue" doc:"What becomes of a moment while the task before has not ended: it fires, is passed over, or waits for that."`
	RunOnce     bool             `json:"runOnce,omitempty" doc:"It fires once, and then never again."`
	Enabled     *bool            `json:"enabled,omitempty" doc:"As it is unless given; of a new one true."`
	Paused      *bool            `json:"paused,omitempty" doc:"As it is unless given; of a new one false."`
	Note        string           `json:"note,omitempty" doc:"Why it is paused."`
	Version     int64            `json:"version,omitempty" doc:"That this was made from: another is a conflict. Whichever unless given."`
}

// ScheduleOptions are those of each enqueue.
type ScheduleOptions struct {
	Queue             string                     `json:"queue,omitempty"`
	Priority          *int                       `json:"priority,omitempty" doc:"0 to 9, 9 first."`
	MaxRetries        *int                       `json:"maxRetries,omitempty"`
	ExpiresIn         string                     `json:"expiresIn,omitempty" doc:"Cancelled unless started within that time of the firing."`
	VisibilityTimeout string                     `json:"visibilityTimeout,omitempty" doc:"The length of the task's leases."`
	Retention         string                     `json:"retention,omitempty" doc:"How long its status is kept: a duration, 0s for not at all, or forever."`
	IgnoreResult      bool                       `json:"ignoreResult,omitempty"`
	Headers           map[string]string          `json:"headers,omitempty"`
	Meta              map[string]json.RawMessage `json:"meta,omitempty"`
}

// ScheduleMisfire says what becomes of missed moments.
type ScheduleMisfire struct {
	Policy string `json:"policy,omitempty" enum:"latest,all,skip" doc:"The newest fires, each does, or those that are not too late."`
	Grace  string `json:"grace,omitempty" doc:"How late a moment may fire, such as 1h."`
	Max    int    `json:"max,omitempty" doc:"How many missed moments policy all fires: the newest; 1000 unless given."`
}

// ScheduleApply asks for many schedules at once, all or nothing.
type ScheduleApply struct {
	Schedules []ScheduleEntry `json:"schedules" doc:"As they are to be, each with its id."`
	Prune     bool            `json:"prune,omitempty" doc:"Delete those that are not among them; needs confirm."`
	Confirm   bool            `json:"confirm,omitempty" doc:"Required with prune, unless dryRun is true."`
	DryRun    bool            `json:"dryRun,omitempty" doc:"Say what would change, and change nothing."`
}

// ScheduleChange asks for a change of one schedule.
type ScheduleChange struct {
	Version int64  `json:"version,omitempty" doc:"That it must be at: another is a conflict. Whichever unless given."`
	Note    string `json:"note,omitempty" doc:"Of a pause: why."`
}

// ScheduleRun asks for a run by hand.
type ScheduleRun struct{}

// ScheduleRan is a run by hand.
type ScheduleRan struct {
	Task string `json:"task" doc:"The id of the task that was enqueued."`
}

// ScheduleList is a page of schedules.
type ScheduleList struct {
	Schedules []beat.View `json:"schedules" doc:"By id."`
	Cursor    string      `json:"cursor,omitempty" doc:"Of the next page; none after the last."`
	Leader    string      `json:"leader" doc:"The beat that leads; empty: none does, and nothing fires."`
}

// ScheduleHistory is what became of a schedule's newest moments.
type ScheduleHistory struct {
	History []beat.FiredView `json:"history" doc:"Newest first."`
}

// SchedulePreview asks when a schedule would fire that is not stored.
type SchedulePreview struct {
	ID      string          `json:"id,omitempty" doc:"The id that its jitter is derived from."`
	Spec    json.RawMessage `json:"spec" doc:"As of a schedule."`
	Jitter  string          `json:"jitter,omitempty"`
	StartAt time.Time       `json:"startAt,omitzero"`
	EndAt   time.Time       `json:"endAt,omitzero"`
	After   time.Time       `json:"after,omitzero" doc:"Moments after that one; now unless given."`
	Count   int             `json:"count,omitempty" doc:"How many, 1000 at most; 5 unless given."`
}

// ScheduleMoments are moments to come.
type ScheduleMoments struct {
	When    string           `json:"when" doc:"The spec in words."`
	Moments []ScheduleMoment `json:"moments"`
}

// ScheduleMoment is one moment to come.
type ScheduleMoment struct {
	Due      time.Time `json:"due" doc:"With the offset of its time zone."`
	Zone     string    `json:"zone"`
	Fires    time.Time `json:"fires" doc:"Due, and its jitter."`
	JitterMS float64   `json:"jitterMs"`
}

// ScheduleBackfill asks for the tasks of moments that have passed.
type ScheduleBackfill struct {
	From    time.Time `json:"from" doc:"The first moment (RFC 3339)."`
	To      time.Time `json:"to,omitzero" doc:"The last moment (RFC 3339); now unless given."`
	Confirm bool      `json:"confirm,omitempty" doc:"Required, unless dryRun is true."`
	DryRun  bool      `json:"dryRun,omitempty" doc:"Say which moments, and enqueue nothing."`
}

// ScheduleBackfilled is what a backfill did, or would do.
type ScheduleBackfilled struct {
	Moments []BackfilledMoment `json:"moments" doc:"By moment."`
	DryRun  bool               `json:"dryRun"`
}

// BackfilledMoment is one moment of a backfill.
type BackfilledMoment struct {
	Due   time.Time `json:"due" doc:"With the offset of its time zone."`
	Task  string    `json:"task" doc:"The id of its task."`
	State string    `json:"state" enum:"enqueued,known,failed,preview" doc:"known: its task was there already."`
	Error string    `json:"error,omitempty" doc:"Why its task was not enqueued."`
}
