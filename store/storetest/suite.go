// Package storetest is the conformance suite of result stores: one test for
// each rule of package store, under the rule's number, and one that plays
// random operations against a small model. A backend passes it with
//
//	func TestResults(t *testing.T) {
//		storetest.Run(t, storetest.Options{Open: func(t testing.TB) storetest.Backend { … }})
//	}
//
// The suite never asserts speed. Where a rule has a bound in time, the bound is
// widened by Options.Slack; that something is gone too early is always exact.
package storetest

import (
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
)

// Backend is what the suite tests.
type Backend struct {
	Results store.Results

	// Watcher tells of the changes of Results, and Outboxes lists what it has
	// not cleared. A store that implements one must set it; nil: it lacks that.
	Watcher  store.Watcher
	Outboxes store.Outboxes

	Heartbeats store.Heartbeats // nil: it keeps none
	Control    store.Control    // nil: it has none

	Limiter store.Limiter // the broker of the same store; nil: it has no rate limits
}

// Options describe a backend to the suite.
type Options struct {
	// Open makes a fresh, empty store, and closes it with t.Cleanup. It is
	// called once for each rule, from several goroutines.
	Open func(t testing.TB) Backend

	// Reopen makes another handle on the store of b, as another process would,
	// and closes it with t.Cleanup; b is open still. Nil: the store has one
	// handle only.
	Reopen func(t testing.TB, b Backend) Backend

	// Keep is a short retention; rules wait for its end. 0: 300 ms.
	Keep time.Duration

	// Slack is what a busy machine may add to a bound. 0: 20 s, or 50 ms in
	// virtual time.
	Slack time.Duration

	// Virtual runs each rule in a testing/synctest bubble of its own, where
	// waiting costs nothing and bounds are exact. It suits backends that live
	// in this process and block on nothing but channels, timers and mutexes.
	Virtual bool

	// Fill lets a rule fill the store with more than store.ScanLimit records,
	// to test that a listing is bounded.
	Fill bool

	// Parallel is how many rules run at once. 0: 8.
	Parallel int

	// Seed repeats the random test as it was; its log has the seed. 0: a new
	// one.
	Seed uint64
}

// Run runs the suite. Each rule is a subtest of its name.
func Run(t *testing.T, o Options) {
	if o.Open == nil {
		t.Fatal("storetest: Options.Open is missing")
	}
	conform.Run(t, conform.Config{Virtual: o.Virtual, Parallel: o.Parallel}, o.rules())
}

// rules binds every test to the options.
func (o Options) rules() []conform.Rule {
	if o.Keep <= 0 {
		o.Keep = 300 * time.Millisecond
	}
	o.Slack = conform.Slack(o.Slack, o.Virtual)
	var bound []conform.Rule
	for _, r := range tests {
		bound = append(bound, conform.Rule{Name: r.name, Test: func(t testing.TB) { r.test(newEnv(t, o)) }})
	}
	return bound
}

var tests = []struct {
	name string
	test func(e *env)
}{
	{"S1_create_once", testS1},
	{"S2_starts_and_progress_by_epoch", testS2},
	{"S3_a_start_finds_the_outcome", testS3},
	{"S4_records_by_epoch_and_legal_move", testS4},
	{"S5_outbox", testS5},
	{"S6_requeue_once", testS6},
	{"S7_retention", testS7},
	{"S8_get_in_order", testS8},
	{"S9_list_in_pages", testS9},
	{"S10_delete_the_finished", testS10},
	{"S11_what_is_kept", testS11},
	{"S12_subscribe", testS12},
	{"S13_heartbeats", testS13},
	{"R1_rate_and_burst", limiters(testR1)},
	{"R2_one_order", limiters(testR2)},
	{"R3_keys_are_apart", limiters(testR3)},
	{"R4_who_asks_again", limiters(testR4)},
	{"R5_bad_reservations", limiters(testR5)},
	{"R6_contexts_keys_and_the_end", limiters(testR6)},
	{"S14_after_close", testS14},
	{"S15_concurrent_use", testS15},
	{"H1_heartbeats_are_followed", testH1},
	{"C1_commands_reach_who_is_meant", testC1},
	{"C2_who_is_away_hears_nothing", testC2},
	{"C3_replies_reach_who_asked", testC3},
	{"C4_late_is_never", testC4},
	{"C5_what_is_wrong_is_refused", testC5},
	{"C6_streams_end", testC6},
	{"Model_random_operations", testModel},
}
