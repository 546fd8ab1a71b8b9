// Package redis keeps everything of Stem in Redis 6.2 or newer, or in Valkey:
// envelopes, leases, dead letters, statuses and heartbeats.
//
//	db, err := redis.Open(ctx, redis.Config{Addrs: []string{"127.0.0.1:6379"}})
//	if err != nil { … }
//	defer db.Close()
//	b, results := db.Broker(), db.Results()
//
// It imports broker, store and task, and the Redis client.
//
// # The keys
//
// docs/redis.md describes them. All of one task lies in one partition, which is
// a hash tag, so that a settlement with its status, follow-ups and claims is one
// script in one slot. A deployment has one partition, unless it runs on a
// Cluster.
//
// # The scripts
//
// The files of lua/ are put together to one script for each thing that a client
// can ask for; each runs whole, and alone. They are called by their hash, and
// sent again when the server does not know them.
//
// # How it waits
//
// A process has one connection that is subscribed, to a channel of its own. A
// script that makes work ready takes consumers off the set of those who wait and
// publishes their numbers there. The first two of them keep the time for all:
// they look once a second, and when something is due; the others look once a
// second all together. A call that gets lost costs a second.
package redis
