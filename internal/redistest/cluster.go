//go:build unix

package redistest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// slots is how many slots a Cluster has.
const slots = 16384

// ClusterOptions shape a Cluster.
type ClusterOptions struct {
	Masters  int // 0: three
	Replicas int // of each master
	Node     Options
}

// Cluster is a Redis Cluster.
type Cluster struct {
	Nodes []*Server // masters first, as they were at the start

	masters int
}

// StartCluster starts a Cluster that ends with the test.
func StartCluster(t testing.TB, o ClusterOptions) *Cluster {
	t.Helper()
	c, err := LaunchCluster(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		n.fail = func(err error) { t.Helper(); t.Fatal(err) }
	}
	t.Cleanup(c.Close)
	return c
}

// LaunchCluster starts a Cluster that ends with Close, or with this process.
// It returns when all nodes agree that all is well.
func LaunchCluster(o ClusterOptions) (*Cluster, error) {
	if o.Masters == 0 {
		o.Masters = 3
	}
	o.Node.cluster = true
	c := &Cluster{masters: o.Masters}
	for range o.Masters * (1 + o.Replicas) {
		n, err := Launch(o.Node)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.Nodes = append(c.Nodes, n)
	}
	if err := c.join(o.Replicas); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) join(replicas int) error {
	first := c.Nodes[0]
	for i, n := range c.Nodes {
		if _, err := n.Try("CLUSTER", "SET-CONFIG-EPOCH", i+1); err != nil {
			return fmt.Errorf("cluster: set an epoch: %w", err)
		}
		if i == 0 {
			continue
		}
		if _, err := first.Try("CLUSTER", "MEET", "127.0.0.1", n.Port()); err != nil {
			return fmt.Errorf("cluster: meet: %w", err)
		}
	}
	for i, n := range c.Nodes[:c.masters] {
		args := []any{"CLUSTER", "ADDSLOTS"}
		for slot := i * slots / c.masters; slot < (i+1)*slots/c.masters; slot++ {
			args = append(args, slot)
		}
		if _, err := n.Try(args...); err != nil {
			return fmt.Errorf("cluster: add slots: %w", err)
		}
	}
	if err := c.await("all know each other", func(n *Server) bool {
		return c.info(n, "cluster_known_nodes") == strconv.Itoa(len(c.Nodes)) && c.info(n, "cluster_state") == "ok"
	}); err != nil {
		return err
	}
	for i := range c.masters * replicas {
		id, err := c.Nodes[i%c.masters].Try("CLUSTER", "MYID")
		if err != nil {
			return fmt.Errorf("cluster: ask for an id: %w", err)
		}
		if _, err := c.Nodes[c.masters+i].Try("CLUSTER", "REPLICATE", id); err != nil {
			return fmt.Errorf("cluster: replicate: %w", err)
		}
	}
	return c.await("replicas follow", func(n *Server) bool { return c.follows(n) })
}

// follows reports whether a replica has its master's data, and whether n sees
// as many masters as there are; of a master only the latter.
func (c *Cluster) follows(n *Server) bool {
	nodes, err := n.Try("CLUSTER", "NODES")
	if err != nil {
		return false
	}
	text, _ := nodes.(string)
	if strings.Count(text, "master") != c.masters || strings.Contains(text, "handshake") {
		return false
	}
	return n.Info("role") == "master" || n.Info("master_link_status") == "up"
}

func (c *Cluster) info(n *Server, field string) string {
	text, err := n.Try("CLUSTER", "INFO")
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(fmt.Sprint(text), "\r\n") {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return value
		}
	}
	return ""
}

func (c *Cluster) await(what string, holds func(*Server) bool) error {
	deadline := time.Now().Add(30 * time.Second)
	for _, n := range c.Nodes {
		for !holds(n) {
			if time.Now().After(deadline) {
				return errors.New("cluster: not after 30s: " + what)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	return nil
}

// Addrs are the addresses of all nodes.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		addrs[i] = n.Addr
	}
	return addrs
}

// URL is the Cluster's redis+cluster:// URL.
func (c *Cluster) URL() string { return "redis+cluster://" + strings.Join(c.Addrs(), ",") }

// Masters returns the running nodes that are masters now.
func (c *Cluster) Masters() []*Server {
	var masters []*Server
	for _, n := range c.Nodes {
		if n.Running() && n.Info("role") == "master" {
			masters = append(masters, n)
		}
	}
	return masters
}

// Close ends all nodes.
func (c *Cluster) Close() {
	for _, n := range c.Nodes {
		n.Close()
	}
}

// MoveSlot moves a slot with its keys to another master, as resharding does.
// Both must be masters, and from must have the slot.
func (c *Cluster) MoveSlot(slot int, from, to *Server) error {
	fromID, err1 := from.Try("CLUSTER", "MYID")
	toID, err2 := to.Try("CLUSTER", "MYID")
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("move slot %d: %w", slot, err)
	}
	_, err1 = to.Try("CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	_, err2 = from.Try("CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("move slot %d: %w", slot, err)
	}
	for {
		reply, err := from.Try("CLUSTER", "GETKEYSINSLOT", slot, 100)
		if err != nil {
			return fmt.Errorf("move slot %d: list its keys: %w", slot, err)
		}
		keys, _ := reply.([]any)
		if len(keys) == 0 {
			break
		}
		args := append([]any{"MIGRATE", "127.0.0.1", to.Port(), "", 0, 10_000, "KEYS"}, keys...)
		if _, err := from.Try(args...); err != nil {
			return fmt.Errorf("move slot %d: migrate: %w", slot, err)
		}
	}
	for _, n := range append([]*Server{to, from}, c.Masters()...) {
		if _, err := n.Try("CLUSTER", "SETSLOT", slot, "NODE", toID); err != nil {
			return fmt.Errorf("move slot %d: %w", slot, err)
		}
	}
	return nil
}
