package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// server is what INFO says of a server.
type server map[string]string

// look asks every server that may be written to what it is. Of several the
// worst answer counts: the first that cannot be used, or that has something to
// warn of.
func look(ctx context.Context, client rueidis.Client) (servers, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	nodes := map[string]rueidis.Client{"": client}
	if client.Mode() == rueidis.ClientModeCluster {
		nodes = client.Nodes()
	}
	var all servers
	for addr, n := range nodes {
		text, err := n.Do(ctx, n.B().Info().Build()).ToString()
		if err != nil {
			return nil, err
		}
		s := server{"addr": addr}
		for line := range strings.SplitSeq(text, "\n") {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				s[key] = value
			}
		}
		all = append(all, s)
	}
	return all, nil
}

type servers []server

// The oldest version that has all that the scripts use.
const (
	leastMajor = 6
	leastMinor = 2
)

// usable returns why one of the servers cannot be used.
func (all servers) usable(c Config) error {
	for _, s := range all {
		if err := s.usable(c); err != nil {
			if s["addr"] != "" {
				return fmt.Errorf("node %s: %w", s["addr"], err)
			}
			return err
		}
	}
	return nil
}

func (s server) usable(c Config) error {
	var major, minor int
	if _, err := fmt.Sscanf(s["redis_version"], "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("the server tells no version that can be read (%.20q): is it Redis?", s["redis_version"])
	}
	switch {
	case major < leastMajor || major == leastMajor && minor < leastMinor:
		return fmt.Errorf("the server is Redis %s, and %d.%d is the oldest that will do: update the server", s["redis_version"], leastMajor, leastMinor)
	case s["redis_mode"] == "sentinel":
		return errors.New("this is a Sentinel: name it in a URL of redis+sentinel://HOST,HOST/MASTER")
	case s["cluster_enabled"] == "1" && !c.Cluster:
		return errors.New("this is a node of a Cluster: say redis+cluster:// in place of redis://")
	case s["cluster_enabled"] == "0" && c.Cluster:
		return errors.New("this server has no Cluster: say redis:// in place of redis+cluster://")
	case s["role"] == "slave" && !c.Cluster && c.Sentinel == "":
		return fmt.Errorf("this is a replica, which nobody can write to: name its master, %s:%s, or use redis+sentinel://", s["master_host"], s["master_port"])
	}
	return nil
}

// warnings says what goes wrong, or will some day.
func (all servers) warnings() []string {
	var out []string
	for _, s := range all {
		where := ""
		if s["addr"] != "" {
			where = " of " + s["addr"]
		}
		for _, w := range []string{s.policyWarning(where), s.memoryWarning(where), s.diskWarning(where)} {
			if w != "" {
				out = append(out, w)
			}
		}
	}
	return out
}

// limit is the memory that the server may use, in bytes; 0: what there is.
func (s server) limit() int64 {
	n, err := strconv.ParseInt(s["maxmemory"], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (s server) policyWarning(where string) string {
	policy := s["maxmemory_policy"]
	if policy == "" || policy == "noeviction" {
		return ""
	}
	when := "once its memory is full"
	if s["maxmemory"] == "0" {
		when = "as soon as maxmemory is set and reached"
	}
	return fmt.Sprintf("the maxmemory-policy%s is %s: the server will throw away tasks, results and claims %s; "+
		"set it to noeviction, so that enqueues fail instead", where, policy, when)
}

// memoryWarning tells of memory that is full, or nine tenths of it.
func (s server) memoryWarning(where string) string {
	most := s.limit()
	used, err := strconv.ParseInt(s["used_memory"], 10, 64)
	if err != nil || most <= 0 || used < most/10*9 {
		return ""
	}
	const cure = "purge what is not needed, keep results for a shorter time, or raise maxmemory"
	if used >= most {
		return fmt.Sprintf("the memory%s is full (%s of %s): the server refuses what is enqueued; %s", where, s["used_memory_human"], s["maxmemory_human"], cure)
	}
	return fmt.Sprintf("the memory%s is nearly full (%s of %s), and then the server refuses what is enqueued; %s",
		where, s["used_memory_human"], s["maxmemory_human"], cure)
}

// diskWarning tells of what the server could not save.
func (s server) diskWarning(where string) string {
	switch {
	case s["aof_enabled"] == "1" && s["aof_last_write_status"] == "err":
		return fmt.Sprintf("the append-only file%s cannot be written, and the server refuses what is enqueued: see its disk and its log", where)
	case s["rdb_last_bgsave_status"] == "err":
		return fmt.Sprintf("the last snapshot%s could not be written, and with stop-writes-on-bgsave-error the server refuses what is enqueued: "+
			"see its disk and its log", where)
	}
	return ""
}

// Warnings asks the servers what will go wrong some day, such as a
// maxmemory-policy that throws tasks away.
func (db *DB) Warnings(ctx context.Context) ([]string, error) {
	if err := db.check(ctx); err != nil {
		return nil, err
	}
	all, err := look(ctx, db.client)
	if err != nil {
		return nil, fmt.Errorf("ask Redis how it is: %w", unavailable(err))
	}
	return all.warnings(), nil
}

// Schema names the server and the version of the keys.
func (db *DB) Schema(ctx context.Context) (string, error) {
	if err := db.check(ctx); err != nil {
		return "", err
	}
	all, err := look(ctx, db.client)
	if err != nil {
		return "", fmt.Errorf("ask Redis its version: %w", unavailable(err))
	}
	name := "Redis " + all[0]["redis_version"]
	if v := all[0]["valkey_version"]; v != "" {
		name = "Valkey " + v
	}
	return fmt.Sprintf("%s (%s, %d partitions)", schema, name, len(db.tags)), nil
}
