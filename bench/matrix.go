package main

import "slices"

// matrix is every measurement of a run, as arguments of "one".
func matrix() []string {
	m := []string{
		"-system stem-memory -case process -c 10 -retain -n 500000",
		"-system stem-memory -case process -c 100 -retain -n 500000",
		"-system stem-memory -case process -c 10 -retain -n 500000 -observed metrics",
		"-system stem-memory -case process -c 10 -retain -n 500000 -observed traces",
		"-system stem-memory -case enqueue -producers 1",
		"-system stem-memory -case enqueue -producers 64 -n 200000",
		"-system stem-memory -case enqueueBatch",
		"-system stem-memory -case latency",
		"-system stem-memory -case idle",
		"-system stem-memory -case delayed",
		"-system stem-memory -case mixed",
	}
	return slices.Concat(m, onSQLite(), onRedis())
}

func onSQLite() []string {
	var m []string
	for _, sync := range []string{"full", "normal"} {
		s := "-system stem-sqlite -sync " + sync + " "
		m = append(m,
			s+"-case process -c 100 -retain", s+"-case process -c 10 -retain", s+"-case process -c 100",
			s+"-case enqueue -producers 1 -n 20000", s+"-case enqueue -producers 10", s+"-case enqueue -producers 64 -n 100000",
			s+"-case enqueueBatch",
		)
	}
	s := "-system stem-sqlite -sync full "
	m = append(m, s+"-case process -c 100 -retain -observed metrics", s+"-case process -c 100 -retain -observed traces")
	m = append(m, s+"-case latency", s+"-case latency2", s+"-case steady", s+"-case idle", s+"-case delayed",
		s+"-case scale -backlog 10000", s+"-case scale -backlog 100000", s+"-case scale -backlog 1000000",
		s+"-case fair -producers 4", s+"-case mixed")
	r := "-system river-sqlite -sync full "
	m = append(m,
		r+"-case process -c 100 -retain -tuned -n 20000", r+"-case process -c 10 -retain -tuned -n 20000",
		r+"-case process -c 100 -retain -n 20000 -max 15s",
		r+"-case enqueue -producers 1 -n 10000", r+"-case enqueue -producers 10 -n 10000", r+"-case enqueueBatch",
		r+"-case latency -tuned", r+"-case latency", r+"-case idle -tuned", r+"-case idle", r+"-case delayed -tuned")
	w := "-system raw-sqlite -sync full "
	return append(m, w+"-case process -c 100", w+"-case enqueue -producers 1 -n 20000", w+"-case enqueueBatch")
}

// onRedis has a system's lines beside the other's, so that both meet the same
// machine.
func onRedis() []string {
	var m []string
	for _, sync := range []string{"mem", "aof"} {
		s, a := "-system stem-redis -sync "+sync+" ", "-system asynq -sync "+sync+" "
		m = append(m,
			s+"-case process -c 100 -retain -n 200000", a+"-case process -c 100 -retain -n 40000",
			s+"-case process -c 10 -retain -n 200000", a+"-case process -c 10 -retain -n 40000",
			s+"-case process -c 100 -n 200000", a+"-case process -c 100 -n 40000",
			s+"-case process -c 100 -drop -n 200000",
			s+"-case enqueue -producers 1", a+"-case enqueue -producers 1",
			s+"-case enqueue -producers 10 -n 100000", a+"-case enqueue -producers 10 -n 100000",
			s+"-case enqueue -producers 64 -n 200000", a+"-case enqueue -producers 64 -n 100000",
			s+"-case enqueueBatch -n 200000", s+"-case enqueueBatch -producers 4 -n 400000",
			s+"-case latency", a+"-case latency", a+"-case latency -tuned",
			s+"-case idle", a+"-case idle",
			s+"-case steady", a+"-case steady",
			s+"-case delayed", a+"-case delayed",
		)
	}
	s, a := "-system stem-redis -sync mem ", "-system asynq -sync mem "
	m = append(m, s+"-case latency2", s+"-case mixed",
		s+"-case scale -backlog 10000", s+"-case scale -backlog 100000", s+"-case scale -backlog 1000000",
		s+"-case bytes", s+"-case bytes -retain", s+"-case bytes -noargs", a+"-case bytes", a+"-case bytes -retain",
		s+"-case fleet", s+"-case reclaim", s+"-case paged", "-system stem-redis-pair -sync mem -case walked")
	for _, spread := range []string{"-producers 1 -queues 1", "-producers 4 -queues 1", "-producers 4 -queues 4"} {
		m = append(m, s+"-case processes "+spread)
	}
	return append(m, a+"-case processes -producers 4 -queues 4 -n 40000")
}
