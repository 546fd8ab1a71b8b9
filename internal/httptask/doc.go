// Package httptask makes tasks of HTTP servers: an endpoint is sent a task's
// arguments as JSON, and what it answers is the result.
//
//	tasks:
//	  notify:
//	    http:
//	      url: https://hooks.example.org/notify
//	      signing: {secret: "@/run/secrets/notify"}
//
// A call carries the task's id, name and attempt, an idempotency key, and a
// signature where the task has a secret. 2xx is success; 408, 425, 429 and 5xx
// are tried again, no sooner than Retry-After asks; every other answer is a
// failure for good.
//
// What a task may reach is decided when a connection is made, by the address
// that is really dialled (guard.go), so that neither a name that resolves to
// the inside, nor one that changes its mind, nor a redirect leads there. A
// call's way: Task.Run (task.go) goes from the endpoint (endpoint.go) hop by hop
// along redirects, over the transport of its pool (pool.go), and answer.go judges
// what came back.
//
// Errors name the method, the scheme and the host, never a path, a query or a
// header: those may be secrets.
package httptask
