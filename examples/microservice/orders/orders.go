// Package orders has the tasks that the three programs have in common: their
// names, arguments and results, and no handler. The API and the beat import this
// and nothing of what the worker needs.
package orders

import (
	"time"

	"github.com/stemjobs/stem"
)

// Order is what a customer wants.
type Order struct {
	Item  string `json:"item"`
	Count int    `json:"count"`
}

// Parcel is an order that was packed.
type Parcel struct {
	Item   string `json:"item"`
	Boxes  int    `json:"boxes"`
	Packer string `json:"packer"` // the worker
}

// Pack packs an order, Confirm tells the customer of the parcel, and Count counts
// the stock, which the beat asks for.
var (
	Pack    = stem.NewTask[Order, Parcel]("order.pack", stem.MaxRetries(3))
	Confirm = stem.NewTask[Parcel, string]("order.confirm", stem.MaxRetries(5))
	Count   = stem.NewTask[Shelf, int]("stock.count", stem.MaxRetries(0))
)

// Shelf is a part of the stock.
type Shelf struct {
	Name string `json:"name"`
}

// CountEvery is how often the stock is counted unless COUNT_EVERY says otherwise.
const CountEvery = 30 * time.Second
