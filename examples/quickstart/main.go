// Command quickstart is the program of the README: one task, enqueued and
// executed in one process.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
)

var Greet = stem.NewTask[string, string]("greet", stem.MaxRetries(5))

func main() {
	ctx, stop := context.WithCancel(context.Background())
	client, err := stem.NewClient(memory.New(), stem.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	worker := stem.NewWorker(client, stem.WorkerOptions{})
	worker.Handle(Greet.With(func(_ context.Context, name string) (string, error) { return "Hello, " + name, nil }))
	go worker.Run(ctx)

	task, err := Greet.Enqueue(ctx, client, "Ada")
	if err != nil {
		log.Fatal(err)
	}
	greeting, err := task.Wait(ctx)
	fmt.Println(greeting, err)
	stop()
}
