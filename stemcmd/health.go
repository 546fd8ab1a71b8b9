package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/store"
)

func (s *session) healthCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "health",
		Short: "Asks each backend whether it is well: reachable, its schema, what it can do, how fast it answers",
		Long: `Asks each backend whether it is well. The exit code is 0 when all are, 3 when one
cannot be reached or opened.`,
		Example: `  {{stem}} health
  {{stem}} health --output json --timeout 5s`,
		Args: noArguments,
	}
	c.RunE = s.short(s.health)
	c.AddCommand(s.healthCheckCommand())
	return c
}

// backendHealth is what health says of one store, as JSON.
type backendHealth struct {
	URL         string   `json:"url"`
	Roles       []string `json:"roles"`
	Reachable   bool     `json:"reachable"`
	Error       string   `json:"error,omitempty"`
	Backend     string   `json:"backend,omitempty"`
	Schema      string   `json:"schema,omitempty"`
	Powers      []string `json:"powers"`
	RoundTripMS float64  `json:"roundTripMs"`
	Queues      int      `json:"queues"`
	Workers     int      `json:"workers"`
	Warnings    []string `json:"warnings,omitempty"`

	err error
}

// schemaTeller is implemented by backends that have a schema.
type schemaTeller interface {
	Schema(ctx context.Context) (string, error)
}

// warner is implemented by backends that know what will go wrong some day.
type warner interface {
	Warnings(ctx context.Context) ([]string, error)
}

func (s *session) health(ctx context.Context, _ []string) error {
	var rows []backendHealth
	for _, o := range s.stores() {
		rows = append(rows, s.examine(ctx, o))
	}
	var errs []error
	for i := range rows {
		if rows[i].err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rows[i].URL, rows[i].err))
		}
	}
	_, err := list(s, healthView(), one(rows))
	for i := range rows {
		for _, w := range rows[i].Warnings {
			s.note("%s: warning: %s", rows[i].URL, w)
		}
	}
	switch {
	case len(errs) > 0:
		var wrong *connect.URLError
		code := ExitUnreachable
		if errors.As(errs[0], &wrong) {
			code = ExitUsage
		}
		return errors.Join(err, &exitError{code: code, err: because(ctx, errors.Join(errs...))})
	default:
		return err
	}
}

// role is one store that the configuration names, and what for.
type role struct {
	options connect.Options
	names   []string
}

// stores lists the stores of the configuration one by one, so that each can be
// asked when another is away.
func (s *session) stores() []role {
	o := s.conf.Config.Options()
	o.MustExist, o.Logger, o.Openers = true, s.log, s.app.Openers
	urls := []struct{ url, role string }{{o.Broker, "broker"}, {o.Results, "results"}, {o.Schedules, "schedules"}}
	var out []role
	for _, u := range urls {
		one := o
		one.Broker, one.Results, one.Schedules = u.url, "", ""
		if u.url == "" {
			one.Broker = o.Broker
		}
		i := slices.IndexFunc(out, func(r role) bool { return r.options.Broker == one.Broker })
		if i < 0 {
			out = append(out, role{options: one})
			i = len(out) - 1
		}
		out[i].names = append(out[i].names, u.role)
	}
	return out
}

// examine asks one store.
func (s *session) examine(ctx context.Context, r role) (h backendHealth) {
	h = backendHealth{URL: connect.Mask(r.options.Broker), Roles: r.names, Powers: []string{}}
	defer func() {
		if h.err != nil {
			h.Error = h.err.Error()
		}
	}()
	b, err := connect.Open(ctx, r.options)
	var open *connect.OpenError
	if errors.As(err, &open) {
		err = open.Err // its URL is shown beside it
	}
	if err != nil {
		h.err = err
		return h
	}
	defer func() { h.err = errors.Join(h.err, b.Close()) }()
	started := time.Now()
	h.err = h.ask(ctx, b.Stores[0].Backend)
	h.RoundTripMS = float64(time.Since(started).Microseconds()) / 1000
	h.Reachable = h.err == nil
	if h.err == nil {
		h.err = h.count(ctx, b)
	}
	return h
}

// ask makes the one call whose time is told.
func (h *backendHealth) ask(ctx context.Context, b stem.Backend) error {
	switch h.Roles[0] { // the most that is asked of it
	case "schedules":
		keeper, ok := b.(beat.Store)
		if !ok {
			return errors.New("this backend keeps no schedules: name another with --schedules")
		}
		_, err := keeper.Schedules().Due(ctx, 1, 0)
		return err
	case "results":
		if b.Results() == nil {
			return errors.New("this backend keeps no statuses: name another with --backend")
		}
		_, err := b.Results().List(ctx, store.Query{Limit: 1})
		return err
	}
	_, err := b.Broker().Queues(ctx, connect.DefaultQueue)
	return err
}

// count fills in what is known of a store that answers.
func (h *backendHealth) count(ctx context.Context, b *connect.Backend) error {
	c := broker.CapabilitiesOf(b.Broker())
	h.Backend = c.Backend
	for _, p := range c.Powers {
		h.Powers = append(h.Powers, string(p))
	}
	if t, ok := b.Stores[0].Backend.(schemaTeller); ok {
		schema, err := t.Schema(ctx)
		if err != nil {
			return fmt.Errorf("read the schema: %w", err)
		}
		h.Schema = schema
	}
	if w, ok := b.Stores[0].Backend.(warner); ok {
		warnings, err := w.Warnings(ctx)
		if err != nil {
			return err
		}
		h.Warnings = append(h.Warnings, warnings...)
	}
	queues, err := b.Broker().Queues(ctx)
	if err != nil {
		return err
	}
	h.Queues = len(queues)
	if beats := b.Heartbeats(); beats != nil {
		workers, err := beats.Workers(ctx)
		if err != nil {
			return err
		}
		h.Workers = len(workers)
	}
	return nil
}

func healthView() view[backendHealth] {
	type row = backendHealth
	return view[row]{
		columns: []column[row]{
			{head: "STORE", cell: func(h *row) string { return h.URL }},
			{head: "ROLES", cell: func(h *row) string { return strings.Join(h.Roles, ", ") }},
			{head: "STATE", cell: func(h *row) string {
				switch {
				case h.err != nil:
					return "fault"
				case len(h.Warnings) > 0:
					return "warning"
				}
				return "ok"
			}, paint: func(h *row) string {
				if h.err != nil {
					return red
				}
				return green
			}},
			{head: "BACKEND", cell: func(h *row) string { return h.Backend }},
			{head: "SCHEMA", cell: func(h *row) string { return h.Schema }},
			{head: "ROUND TRIP", cell: func(h *row) string {
				if !h.Reachable {
					return "-"
				}
				return strconv.FormatFloat(h.RoundTripMS, 'f', 2, 64) + " ms"
			}},
			{head: "QUEUES", right: true, cell: func(h *row) string { return strconv.Itoa(h.Queues) }},
			{head: "WORKERS", right: true, cell: func(h *row) string { return strconv.Itoa(h.Workers) }},
			{head: "CAN", cell: func(h *row) string { return strings.Join(h.Powers, " ") }},
		},
		name: func(h *row) string { return h.URL },
	}
}
