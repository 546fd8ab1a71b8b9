// Command worker executes the tasks of package orders. Any number of it may run;
// SIGTERM has it finish what runs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/examples/microservice/orders"
	"github.com/stemjobs/stem/examples/microservice/process"
)

func main() { os.Exit(process.Main("orders-worker", run)) }

func run(ctx context.Context, p *process.Process) error {
	worker := stem.NewWorker(p.Client, stem.WorkerOptions{})
	if err := worker.Handle(orders.Pack.With(pack), orders.Confirm.With(confirm), orders.Count.With(count)); err != nil {
		return err
	}
	return worker.Run(ctx)
}

// perBox is how many of an item go into a box.
const perBox = 10

func pack(ctx context.Context, o orders.Order) (orders.Parcel, error) {
	if o.Count < 1 {
		return orders.Parcel{}, stem.Permanent(errors.New("an order of nothing"))
	}
	return orders.Parcel{Item: o.Item, Boxes: (o.Count + perBox - 1) / perBox, Packer: stem.Current(ctx).Worker()}, nil
}

func confirm(_ context.Context, p orders.Parcel) (string, error) {
	return fmt.Sprintf("%s is on its way, boxes: %d", p.Item, p.Boxes), nil
}

func count(_ context.Context, s orders.Shelf) (int, error) { return len(s.Name), nil }
