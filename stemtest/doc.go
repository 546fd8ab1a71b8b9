// Package stemtest tests programs that use Stem: the whole system in memory,
// driven a task at a time.
//
// A [System] has a client to hand to the code under test, and executes what was
// enqueued when the test says so: [System.RunOne], [System.Drain]. Retries and
// delayed tasks need time to pass; inside testing/synctest that is a fake
// clock, which [System.AdvanceTo] moves, so that a day's wait takes no time:
//
//	synctest.Test(t, func(t *testing.T) {
//		s := stemtest.New(t, Remind.Do(remind))
//		signUp(t.Context(), s.Client, "ada")             // enqueues Remind, a day ahead
//		stemtest.RequireEnqueued(t, s, Remind)
//		s.AdvanceTo(time.Now().Add(24 * time.Hour))
//		s.Drain()
//	})
package stemtest
