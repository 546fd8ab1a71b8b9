package redis_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/redistest"
)

// oldServer answers as Redis 5 does, which knows neither HELLO nor ACL.
func oldServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { answerAsOld(c) })
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().String()
}

func answerAsOld(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		head, err := in.ReadString('\n')
		if err != nil {
			return
		}
		n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(head, "*")))
		var words []string
		for range n {
			_, _ = in.ReadString('\n') // the length: no word of these tests has an end of line
			word, err := in.ReadString('\n')
			if err != nil {
				return
			}
			words = append(words, strings.ToUpper(strings.TrimSpace(word)))
		}
		if len(words) == 0 {
			return
		}
		const info = "# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\n"
		switch words[0] {
		case "HELLO", "CLIENT":
			fmt.Fprintf(c, "-ERR unknown command `%s`\r\n", words[0])
		case "INFO":
			fmt.Fprintf(c, "$%d\r\n%s\r\n", len(info), info)
		case "PING":
			fmt.Fprint(c, "+PONG\r\n")
		default:
			fmt.Fprint(c, "+OK\r\n")
		}
	}
}

func TestOpenRefusesOldServers(t *testing.T) {
	t.Parallel()
	_, err := redis.Open(t.Context(), redis.Config{Addrs: []string{oldServer(t)}})
	if err == nil || !strings.Contains(err.Error(), "Redis 5.0.14, and 6.2 is the oldest") {
		t.Errorf("an old server: %v", err)
	}
}

func TestOpenRefusesForeignKeys(t *testing.T) {
	t.Parallel()
	s := shared.Get(t)
	for _, key := range []string{"meta", "lease", "run", "due", "epoch", "journal", "entries"} {
		name := namespace()
		full := "{" + name + ":0}:" + key
		if key == "epoch" {
			s.Do("HSET", full, "mine", "")
		} else {
			s.Do("SET", full, "mine")
		}
		_, err := redis.Open(t.Context(), redis.Config{Addrs: []string{s.Socket}, Namespace: name})
		if err == nil || !strings.Contains(err.Error(), "the key "+full+" is another program's") || !strings.Contains(err.Error(), "STEM_NAMESPACE") {
			t.Errorf("%s of another type: %v", key, err)
		}
		if got, _ := s.Try("GET", full); key != "epoch" && got != "mine" {
			t.Errorf("%s was changed: %v", full, got)
		}
	}
}

func TestOpenWithoutRights(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{Config: []string{
		"user blind on >hunter2 ~* &* +@all -info", "user elsewhere on >hunter2 ~other* &* +@all",
	}})
	for user, want := range map[string]string{"blind": "lacks rights", "elsewhere": "lacks rights"} {
		_, err := redis.Open(t.Context(), redis.Config{Addrs: []string{s.Addr}, Username: user, Password: "hunter2"})
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("%s: %v, want %q", user, err, want)
		}
	}
}

// TestRightsOnACluster: the documented rights are enough there too.
func TestRightsOnACluster(t *testing.T) {
	t.Parallel()
	more := " +cluster|slots +cluster|shards +cluster|nodes"
	c := redistest.StartCluster(t, redistest.ClusterOptions{Node: redistest.Options{Config: []string{leastRights() + more}}})
	db := open(t, redis.Config{Addrs: c.Addrs(), Cluster: true, Username: "stem", Password: "PASSWORD"})
	if _, err := db.Broker().Queues(t.Context()); err != nil {
		t.Error(err)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDropNamespaceLeavesOthers(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{})
	keep, err := redis.Open(t.Context(), redis.Config{Addrs: []string{s.Addr}, Namespace: "keep"})
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	before := s.Do("DBSIZE")
	drop, err := redis.Open(t.Context(), redis.Config{Addrs: []string{s.Addr}, Namespace: "keep2", Partitions: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer drop.Close()
	if s.Do("DBSIZE") == before {
		t.Error("a new namespace has no keys")
	}
	if err := drop.DropNamespace(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := s.Do("DBSIZE"); after != before {
		t.Errorf("%v keys, %v before", after, before)
	}
}
