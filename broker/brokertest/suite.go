// Package brokertest is the conformance suite of brokers: one test for each
// rule of package broker, under the rule's number, and one that plays random
// operations against a small model. A backend passes it with
//
//	func TestConformance(t *testing.T) {
//		brokertest.Run(t, brokertest.Options{Open: func(t testing.TB) brokertest.Backend { … }})
//	}
//
// What a power adds to a rule is tested where the broker declares that power;
// where it does not, the suite tests that asking for it is refused. A broker
// that declares a power and lacks its interface, or the other way round, fails:
// that is the suite's own rule P0.
//
// The suite never asserts speed. Where a rule has a bound in time, the bound is
// widened by Options.Slack; that something comes too early is always exact.
package brokertest

import (
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
)

// Backend is what the suite tests.
type Backend struct {
	Broker broker.Broker

	// Results is where the broker's statuses show: its own store, or the other
	// store of a joined broker. Nil: none are kept, and none are checked.
	Results store.Results

	// Handle is the backend's own: whatever its Reopen and InjectMalformed
	// need to find the store again.
	Handle any
}

// Options describe a backend to the suite.
type Options struct {
	// Open makes a fresh, empty backend, and closes it with t.Cleanup. It is
	// called once for each rule, from several goroutines.
	Open func(t testing.TB) Backend

	// Reopen makes another handle on the store of b, as another process would,
	// and closes it with t.Cleanup. It must be set where PowerDurable or
	// PowerShared is declared. b's broker is open still where PowerShared is
	// declared, and may be closed.
	Reopen func(t testing.TB, b Backend) Backend

	// InjectMalformed writes an entry under that id that is no envelope
	// straight into the store (rule B24). A backend whose store cannot hold
	// such an entry leaves it nil; the suite then tests only that Publish lets
	// none in.
	InjectMalformed func(t testing.TB, b Backend, queue, id string, raw []byte)

	// Lease is a short lease; rules wait for its end. 0: 300 ms.
	Lease time.Duration

	// Slack is what a busy machine may add to a bound. 0: 20 s, or 50 ms in
	// virtual time.
	Slack time.Duration

	// Virtual runs each rule in a testing/synctest bubble of its own, where
	// waiting costs nothing and bounds are exact. It suits backends that live
	// in this process and block on nothing but channels, timers and mutexes.
	Virtual bool

	// Parallel is how many rules run at once. 0: 8.
	Parallel int

	// Seed repeats the random test as it was; its log has the seed. 0: a new
	// one.
	Seed uint64

	// Partition is for a store of several partitions, each with an order of its
	// own: it says in which of them the task of an id lies. What the rules say of
	// order is tested of each partition then. Nil: there is one.
	Partition func(id string) int

	light bool // without bulk: the suite's own tests run it a hundred times
}

// Run runs the suite. Each rule is a subtest of its name.
func Run(t *testing.T, o Options) {
	if o.Open == nil {
		t.Fatal("brokertest: Options.Open is missing")
	}
	conform.Run(t, conform.Config{Virtual: o.Virtual, Parallel: o.Parallel}, o.rules())
}

// rules binds every test to the options.
func (o Options) rules() []conform.Rule {
	if o.Lease <= 0 {
		o.Lease = 300 * time.Millisecond
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
	{"B1_stored_survives", testB1},
	{"B2_an_id_is_stored_once", testB2},
	{"B3_a_bad_item_fails_alone", testB3},
	{"B4_claims", testB4},
	{"B5_lacking_powers_are_refused", testB5},
	{"B6_exchange_is_bounded_and_never_blocks", testB6},
	{"B7_lease_is_exclusive", testB7},
	{"B8_ended_lease_redelivers", testB8},
	{"B9_delayed_until_its_moment", testB9},
	{"B10_priority_then_first_in_first_out", testB10},
	{"B11_order_of_queues", testB11},
	{"B12_next_and_more", testB12},
	{"B13_wait_is_woken", testB13},
	{"B14_settlement_is_whole_or_nothing", testB14},
	{"B15_fencing", testB15},
	{"B16_settle_by_receipt_alone", testB16},
	{"B17_release_is_uncounted", testB17},
	{"B18_retry_waits_and_counts", testB18},
	{"B19_terminal_outcomes", testB19},
	{"B20_followups", testB20},
	{"B21_renew", testB21},
	{"B22_a_stored_outcome_is_completed", testB22},
	{"B23_closing_a_consumer_gives_back", testB23},
	{"B24_malformed_entries", testB24},
	{"B25_queues_are_described", testB25},
	{"B26_purge_spares_leased_and_dead", testB26},
	{"B27_dead_letters", testB27},
	{"B28_after_close", testB28},
	{"B29_cancelled_context", testB29},
	{"B30_concurrent_use", testB30},
	{"B31_a_reserved_slot", testB31},
	{"P0_declared_is_implemented", testP0},
	{"P1_revoke", testP1},
	{"P2_statuses_show_at_once", testP2},
	{"P3_owner", testP3},
	{"P4_dead_letters_come_back", testP4},
	{"P5_pauses", testP5},
	{"P6_exchanges_overlap", testP6},
	{"Model_random_operations", testModel},
}
