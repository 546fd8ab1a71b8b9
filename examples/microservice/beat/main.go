// Command beat has the stock counted again and again. Run two of it, on two
// hosts: one leads, and the other takes over.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/examples/microservice/orders"
	"github.com/stemjobs/stem/examples/microservice/process"
	"github.com/stemjobs/stem/schedule"
)

func main() { os.Exit(process.Main("orders-beat", run)) }

func run(ctx context.Context, p *process.Process) error {
	every, err := time.ParseDuration(cmp.Or(os.Getenv("COUNT_EVERY"), orders.CountEvery.String()))
	if err != nil {
		return fmt.Errorf("COUNT_EVERY: %w", err)
	}
	book, err := beat.NewBook(p.Client, p.Backend.Schedules(), p.Backend.Locks())
	if err != nil {
		return err
	}
	args, err := json.Marshal(orders.Shelf{Name: "A1"})
	if err != nil {
		return fmt.Errorf("encode the shelf: %w", err)
	}
	stock := beat.Entry{ID: "stock", Task: orders.Count.Name(), Args: args, Spec: schedule.Definition{Every: every}}
	if _, err := book.Apply(ctx, []beat.Desired{{Entry: stock}}, false); err != nil {
		return err
	}
	b, err := beat.New(p.Client, p.Backend.Schedules(), p.Backend.Locks(), beat.Options{Logger: p.Logger})
	if err != nil {
		return err
	}
	return b.Run(ctx)
}
