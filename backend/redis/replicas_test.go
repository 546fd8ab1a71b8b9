package redis_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/store"
)

// What a call stored with WaitReplicas is at the replica when it returns.
func TestWaitReplicas(t *testing.T) {
	master, replica := redistest.Start(t, redistest.Options{}), redistest.Start(t, redistest.Options{})
	host, port, err := net.SplitHostPort(master.Addr)
	if err != nil {
		t.Fatal(err)
	}
	replica.Do("REPLICAOF", host, port)
	for began := time.Now(); master.Info("connected_slaves") != "1" || replica.Info("master_link_status") != "up"; {
		if time.Since(began) > 20*time.Second {
			t.Fatal("the replica does not follow")
		}
		time.Sleep(10 * time.Millisecond)
	}
	b := open(t, redis.Config{Addrs: []string{master.Addr}, WaitReplicas: 1}).Broker()
	for _, p := range publications(20) {
		out, err := b.Publish(t.Context(), []broker.Publication{p})
		if err != nil || out[0].State != broker.Stored {
			t.Fatalf("Publish: %+v, %v", out, err)
		}
		if n := replica.Do("EXISTS", "{stem:0}"+p.Envelope.ID); n != int64(1) {
			t.Errorf("%s is not at the replica: %v", p.Envelope.ID, n)
		}
	}
}

// Reads wait for no replica, and answer also where there are none.
func TestReadsWaitForNoReplica(t *testing.T) {
	s := redistest.Start(t, redistest.Options{})
	open(t, redis.Config{Addrs: []string{s.Addr}})
	db := open(t, redis.Config{Addrs: []string{s.Addr}, WaitReplicas: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // a write waits for longer
	defer cancel()
	_, err1 := db.Broker().Queues(ctx)
	_, _, err2 := db.Broker().DeadLetters().ListDeadLetters(ctx, broker.DeadFilter{}, broker.Page{})
	_, err3 := db.Heartbeats().Workers(ctx)
	_, err4 := db.Schedules().Due(ctx, 10, 0)
	_, _, err5 := db.Audit().List(ctx, store.AuditQuery{})
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Error(err)
	}
}
