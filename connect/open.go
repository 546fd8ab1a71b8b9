package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/internal/nearest"
)

// Options say which stores to open, and how.
type Options struct {
	Broker    string // URL of the store of envelopes
	Results   string // URL of the store of statuses; "": the broker's
	Namespace string // under which everything lives, 1–32 of a-z 0-9 _, a letter first; "": "stem"

	// MustExist refuses a store that is not there yet, where a first use would
	// make it: for commands that only look, so that a mistyped path is told.
	MustExist bool

	Logger  *slog.Logger      // of the backends; nil: discards
	Openers map[string]Opener // more schemes, or others in place of the built-in ones
}

// Opener opens the store that a URL of its scheme names. o has the options of
// Open, of which Namespace, MustExist and Logger concern it.
type Opener func(ctx context.Context, rawURL string, o Options) (stem.Backend, error)

// Backend is what Open opened: one store, or two that play a role each.
type Backend struct {
	stem.Backend
	Stores []Store // each store once, the broker's first
}

// Store is one opened store.
type Store struct {
	URL     string   // without secrets
	Roles   []string // "broker", "results"
	Backend stem.Backend
}

// URLError says that a URL names no store, as a mistake in the configuration.
type URLError struct {
	URL  string // without secrets
	Want string // what is accepted
}

func (e *URLError) Error() string {
	if e.URL == "" {
		return "no store is named: want " + e.Want
	}
	return fmt.Sprintf("store URL %q: want %s", e.URL, e.Want)
}

// OpenError says that a store could not be opened.
type OpenError struct {
	URL string // without secrets
	Err error
}

func (e *OpenError) Error() string { return e.URL + ": " + e.Err.Error() }

// Unwrap returns what went wrong.
func (e *OpenError) Unwrap() error { return e.Err }

// later holds the schemes of backends that this version does not have.
func later(scheme string) bool {
	return slices.Contains([]string{
		"redis", "rediss", "redis+sentinel", "redis+cluster", "postgres", "postgresql", "nats", "tls",
	}, scheme)
}

// Open opens the stores that the options name. Roles with the same URL share
// one store. The error is a *URLError or an *OpenError, and has no secrets.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	if err := validateNamespace(o.Namespace); err != nil {
		return nil, err
	}
	if o.Results == "" {
		o.Results = o.Broker
	}
	broker, err := o.parse(o.Broker)
	if err != nil {
		return nil, err
	}
	results, err := o.parse(o.Results)
	if err != nil {
		return nil, err
	}
	if broker.place == results.place && broker.identity != results.identity {
		return nil, &URLError{URL: results.shown, Want: "the same options as " + broker.shown + ", since it is the same store"}
	}
	first, err := broker.openAs(ctx, o)
	if err != nil {
		return nil, err
	}
	if broker.identity == results.identity {
		return &Backend{first, []Store{{broker.shown, []string{"broker", "results"}, first}}}, nil
	}
	second, err := results.openAs(ctx, o)
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	return &Backend{stem.Pair(first, second), []Store{
		{broker.shown, []string{"broker"}, first},
		{results.shown, []string{"results"}, second},
	}}, nil
}

// target is a parsed URL: where it leads, and how it is opened.
type target struct {
	shown    string // the URL without secrets
	place    string // equal for URLs that lead to one store
	identity string // equal for URLs that also open it alike
	open     func(ctx context.Context, o Options) (stem.Backend, error)
}

func (t target) openAs(ctx context.Context, o Options) (stem.Backend, error) {
	b, err := t.open(ctx, o)
	if err != nil {
		return nil, &OpenError{URL: t.shown, Err: err}
	}
	return b, nil
}

func (o Options) parse(raw string) (target, error) {
	scheme, _, ok := strings.Cut(raw, ":")
	scheme = strings.ToLower(scheme)
	t := target{shown: Mask(raw), place: raw, identity: raw}
	if open := o.Openers[scheme]; ok && open != nil {
		t.open = func(ctx context.Context, o Options) (stem.Backend, error) { return open(ctx, raw, o) }
		return t, nil
	}
	switch {
	case !ok:
		return t, &URLError{URL: t.shown, Want: o.accepted("")}
	case scheme == "memory":
		return parseMemory(t, raw)
	case scheme == "sqlite":
		return parseSQLite(t, raw)
	case later(scheme):
		return t, &URLError{URL: t.shown, Want: o.accepted("") + "; " + scheme + " comes in a later version"}
	default:
		return t, &URLError{URL: t.shown, Want: o.accepted(scheme)}
	}
}

// accepted names the forms of URL that Open takes, the nearest to scheme
// first.
func (o Options) accepted(scheme string) string {
	forms := map[string]string{"memory": "memory:", "sqlite": "sqlite:stem.db"}
	for s := range o.Openers {
		if forms[s] == "" {
			forms[s] = s + ":…"
		}
	}
	names := slices.Sorted(maps.Keys(forms))
	text := make([]string, len(names))
	for i, n := range names {
		text[i] = forms[n]
	}
	want := "one of " + strings.Join(text, ", ")
	if n := nearest.Word(scheme, names); n != "" && scheme != "" {
		want = forms[n] + "? Accepted is " + want
	}
	return want
}

func parseMemory(t target, raw string) (target, error) {
	if rest := strings.TrimPrefix(raw[len("memory:"):], "//"); rest != "" {
		return t, &URLError{URL: t.shown, Want: "memory: alone"}
	}
	t.shown, t.place, t.identity = "memory:", "memory:", "memory:"
	t.open = func(context.Context, Options) (stem.Backend, error) { return memory.New(), nil }
	return t, nil
}
