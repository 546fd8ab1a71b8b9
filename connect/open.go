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
	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/internal/nearest"
	"github.com/stemjobs/stem/store"
)

// Options say which stores to open, and how.
type Options struct {
	Broker    string // URL of the store of envelopes
	Results   string // URL of the store of statuses; "": the broker's
	Schedules string // URL of the store of schedules and their locks; "": the broker's
	Namespace string // under which everything lives, 1–32 of a-z 0-9 _, a letter first; "": "stem"

	// MustExist refuses a store that is not there yet, where a first use would
	// make it: for commands that only look, so that a mistyped path is told.
	MustExist bool

	TLS TLS // of stores whose URL asks for encryption

	Logger  *slog.Logger      // of the backends; nil: discards
	Openers map[string]Opener // more schemes, or others in place of the built-in ones
}

// Opener opens the store that a URL of its scheme names. o has the options of
// Open, of which Namespace, MustExist and Logger concern it.
type Opener func(ctx context.Context, rawURL string, o Options) (stem.Backend, error)

// Backend is what Open opened: one store, or several that play a role each.
type Backend struct {
	stem.Backend
	Stores []Store // each store once, the broker's first

	schedules stem.Backend // that has the role
}

// Close closes every store.
func (b *Backend) Close() error {
	var errs []error
	for i := range slices.Backward(b.Stores) {
		errs = append(errs, b.Stores[i].Backend.Close())
	}
	return errors.Join(errs...)
}

// Schedules is the store of schedules; nil: that store keeps none.
func (b *Backend) Schedules() store.Schedules {
	if s, ok := b.schedules.(interface{ Schedules() store.Schedules }); ok {
		return s.Schedules()
	}
	return nil
}

// Locks is where beats say which of them leads: with the schedules; nil: that
// store has none.
func (b *Backend) Locks() store.Locks {
	if s, ok := b.schedules.(interface{ Locks() store.Locks }); ok {
		return s.Locks()
	}
	return nil
}

// Store is one opened store.
type Store struct {
	URL     string   // without secrets
	Roles   []string // "broker", "results", "schedules"
	Backend stem.Backend

	identity string
}

// URLError says that a URL names no store, as a mistake in the configuration.
type URLError struct {
	URL  string // without secrets
	Want string // what is accepted
	Role string // that the store was to have: "broker", "results" or "schedules"
}

// variable is the one that names the store of a role.
func variable(role string) string {
	switch role {
	case "results":
		return "STEM_RESULT_BACKEND_URL"
	case "schedules":
		return "STEM_SCHEDULE_STORE_URL"
	}
	return "STEM_BROKER_URL"
}

// Variable is the variable that a role's store is named by.
func (e *URLError) Variable() string { return variable(e.Role) }

func (e *URLError) Error() string {
	if e.URL == "" {
		return "no store is named: want " + e.Want
	}
	return fmt.Sprintf("store URL %q: want %s", e.URL, e.Want)
}

// OpenError says that a store could not be opened.
type OpenError struct {
	URL  string // without secrets
	Role string // that the store was to have: "broker", "results" or "schedules"
	Err  error
}

// Variable is the variable that names the store.
func (e *OpenError) Variable() string { return variable(e.Role) }

func (e *OpenError) Error() string { return e.URL + ": " + e.Err.Error() }

// Unwrap returns what went wrong.
func (e *OpenError) Unwrap() error { return e.Err }

// later holds the schemes of backends that this version does not have.
func later(scheme string) bool {
	return slices.Contains([]string{
		"postgres", "postgresql", "nats", "tls",
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
	targets, err := o.targets()
	if err != nil {
		return nil, err
	}
	b := &Backend{}
	role := make([]stem.Backend, len(targets))
	for i, t := range targets {
		if role[i], err = b.play(ctx, o, t, roles()[i]); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	b.Backend, b.schedules = role[0], role[2]
	if targets[0].identity != targets[1].identity {
		b.Backend = stem.Pair(role[0], role[1])
	}
	return b, nil
}

// roles are the roles that a store may have.
func roles() []string { return []string{"broker", "results", "schedules"} }

// targets are the stores of the roles, in their order.
func (o Options) targets() ([]target, error) {
	urls := []string{o.Broker, o.Results, o.Schedules}
	targets := make([]target, len(urls))
	for i, raw := range urls {
		if raw == "" {
			raw = o.Broker
		}
		t, err := o.parse(raw)
		var wrong *URLError
		if errors.As(err, &wrong) {
			wrong.Role = roles()[i]
		}
		if err != nil {
			return nil, err
		}
		for _, other := range targets[:i] {
			if other.place == t.place && other.identity != t.identity {
				return nil, &URLError{URL: t.shown, Want: "the same options as " + other.shown + ", since it is the same store"}
			}
		}
		targets[i] = t
	}
	return targets, nil
}

// play gives a role to the store of a target, which is opened once.
func (b *Backend) play(ctx context.Context, o Options, t target, role string) (stem.Backend, error) {
	for i := range b.Stores {
		if s := &b.Stores[i]; s.identity == t.identity {
			s.Roles = append(s.Roles, role)
			return s.Backend, nil
		}
	}
	opened, err := t.openAs(ctx, o, role)
	if err != nil {
		return nil, err
	}
	b.Stores = append(b.Stores, Store{URL: t.shown, Roles: []string{role}, Backend: opened, identity: t.identity})
	return opened, nil
}

// target is a parsed URL: where it leads, and how it is opened.
type target struct {
	shown    string // the URL without secrets
	place    string // equal for URLs that lead to one store
	identity string // equal for URLs that also open it alike
	open     func(ctx context.Context, o Options) (stem.Backend, error)
}

func (t target) openAs(ctx context.Context, o Options, role string) (stem.Backend, error) {
	b, err := t.open(ctx, o)
	if err != nil {
		return nil, &OpenError{URL: t.shown, Role: role, Err: err}
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
	case redis.IsURLScheme(scheme):
		return parseRedis(t, raw, o.TLS)
	case later(scheme):
		return t, &URLError{URL: t.shown, Want: o.accepted("") + "; " + scheme + " comes in a later version"}
	default:
		return t, &URLError{URL: t.shown, Want: o.accepted(scheme)}
	}
}

// accepted names the forms of URL that Open takes, the nearest to scheme
// first.
func (o Options) accepted(scheme string) string {
	forms := map[string]string{"memory": "memory:", "sqlite": "sqlite:stem.db", "redis": "redis://localhost:6379/0"}
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
