package connect

import (
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Defaults of the configuration.
const (
	DefaultNamespace = "stem"
	DefaultQueue     = "default"
)

// Variable is one row of the table of configuration variables.
type Variable struct {
	Name    string
	Flag    string // of the command line, without dashes; "": none
	Default string // as it is documented
	Meaning string
	Form    string // the accepted form, after "want"
	Later   string // what it belongs to and this version does not have; "": used

	kind kind
	set  func(c *Config, value string) bool // false: not of the accepted form
}

// kind says how a value is shown.
type kind int

const (
	plain kind = iota
	asURL
	secret
)

// show returns the value as it may be printed.
func (v *Variable) show(value string) string {
	switch {
	case value == "" || v.kind == plain:
		return value
	case v.kind == asURL:
		return Mask(value)
	default:
		return hidden
	}
}

// Variables lists every STEM_* variable, in the order of the documentation.
func Variables() []Variable {
	return slices.Concat(storeVariables(), tlsVariables(), workVariables(), serviceVariables(), laterVariables())
}

func storeVariables() []Variable {
	return []Variable{
		{
			Name: "STEM_BROKER_URL", Flag: "broker", Default: "sqlite:stem.db for stem dev, else none: required", kind: asURL,
			Meaning: "where envelopes live", Form: "a URL such as sqlite:stem.db",
			set: func(c *Config, v string) bool { c.Broker = v; return true },
		}, {
			Name: "STEM_RESULT_BACKEND_URL", Flag: "backend", Default: "the broker's", kind: asURL,
			Meaning: "where statuses and heartbeats live", Form: "a URL such as sqlite:results.db",
			set: func(c *Config, v string) bool { c.Results = v; return true },
		}, {
			Name: "STEM_SCHEDULE_STORE_URL", Flag: "schedules", Default: "the broker's", kind: asURL,
			Meaning: "where schedules and their locks live", Form: "a URL such as sqlite:schedules.db",
			set: func(c *Config, v string) bool { c.Schedules = v; return true },
		}, {
			Name: "STEM_NAMESPACE", Flag: "namespace", Default: DefaultNamespace,
			Meaning: "prefix under which everything of one deployment lives", Form: namespaceForm,
			set: func(c *Config, v string) bool { c.Namespace = v; return validateNamespace(v) == nil },
		}, {
			Name: "STEM_DEFAULT_QUEUE", Default: DefaultQueue,
			Meaning: "queue of tasks whose call and declaration name none; what a worker hears when told nothing",
			Form:    "1–100 of A-Z a-z 0-9 . _ -",
			set:     func(c *Config, v string) bool { c.DefaultQueue = v; return task.ValidateQueue(v) == nil },
		},
	}
}

func tlsVariables() []Variable {
	const file = "the path of a PEM file"
	return []Variable{
		{
			Name: "STEM_TLS_CA_CERT", Default: "none: whom the system trusts",
			Meaning: "authorities that stores' certificates must be signed by, where the URL asks for TLS (rediss://)", Form: file,
			set: func(c *Config, v string) bool { c.TLS.CA = v; return true },
		}, {
			Name: "STEM_TLS_CLIENT_CERT", Default: "none",
			Meaning: "the certificate that is shown to stores", Form: file,
			set: func(c *Config, v string) bool { c.TLS.Cert = v; return true },
		}, {
			Name: "STEM_TLS_CLIENT_KEY", Default: "none",
			Meaning: "its key", Form: file,
			set: func(c *Config, v string) bool { c.TLS.Key = v; return true },
		}, {
			Name: "STEM_TLS_ALLOW_INSECURE", Default: "false",
			Meaning: "does not check stores' certificates, and warns at each start: for tests alone", Form: "true or false",
			set: func(c *Config, v string) bool {
				c.TLS.AllowInsecure = v == "true" || v == "1"
				return slices.Contains([]string{"true", "false", "1", "0"}, v)
			},
		},
	}
}

func workVariables() []Variable {
	return []Variable{
		{
			Name: "STEM_CONCURRENCY", Flag: "concurrency", Default: "number of CPUs × 4",
			Meaning: "isolates of a worker: handlers that run at once", Form: "a whole number from 1 to 100000",
			set: func(c *Config, v string) bool { return number(v, 1, 100_000, &c.Concurrency) },
		}, {
			Name: "STEM_PREFETCH_MULTIPLIER", Flag: "prefetch", Default: "auto",
			Meaning: "n: deliveries held = concurrency × n; auto: what starts within 10 ms at the present rate, 256 at most",
			Form:    "auto, or a whole number from 1 to 1000",
			set: func(c *Config, v string) bool {
				c.Prefetch = 0
				return v == "auto" || number(v, 1, 1000, &c.Prefetch)
			},
		}, {
			Name: "STEM_DEFAULT_MAX_RETRIES", Default: "3",
			Meaning: "attempts after the first, when task and call say nothing", Form: "a whole number from 0 to 1000000",
			set: func(c *Config, v string) bool { return number(v, 0, 1_000_000, &c.MaxRetries) },
		}, {
			Name: "STEM_DEFAULT_VISIBILITY_TIMEOUT", Default: broker.DefaultLease.String(),
			Meaning: "lease length: how soon another worker takes over after a crash", Form: "a duration of 1s or more, such as 30s",
			set: func(c *Config, v string) bool { return duration(v, time.Second, &c.Lease) },
		}, {
			Name: "STEM_RESULT_TTL", Default: "24h",
			Meaning: "how long a succeeded or cancelled status is kept; 0: for ever; a failed one lives as long as its dead letter",
			Form:    "a duration such as 24h, or 0",
			set: func(c *Config, v string) bool {
				ok := duration(v, 0, &c.Retention)
				if c.Retention == 0 {
					c.Retention = task.Forever
				}
				return ok
			},
		}, {
			Name: "STEM_HEARTBEAT_INTERVAL", Default: "10s",
			Meaning: "how often a worker says that it lives", Form: "a duration of 1s or more, such as 10s",
			set: func(c *Config, v string) bool { return duration(v, time.Second, &c.HeartbeatInterval) },
		}, {
			Name: "STEM_CONTROL_TIMEOUT", Default: "5s",
			Meaning: "how long a command waits for the replies of workers", Form: "a duration from 100ms to 1m, such as 5s",
			set: func(c *Config, v string) bool {
				return duration(v, 100*time.Millisecond, &c.ControlTimeout) && c.ControlTimeout <= time.Minute
			},
		}, {
			Name: "STEM_DEAD_LETTER_TTL", Default: "0 (for ever)",
			Meaning: "how long dead letters are kept, with their statuses; one worker of those that run removes older ones, each minute",
			Form:    "a duration from 1m, such as 720h, or 0",
			set: func(c *Config, v string) bool {
				return v == "0" || duration(v, time.Minute, &c.DeadLetterTTL)
			},
		}, {
			Name: "STEM_WORKER_COMMAND", Default: "none: the program's own worker run --id %n",
			Meaning: "command line that worker multi starts; %n is the worker's name, %h the host's, %d its domain, %I its number; no shell is involved",
			Form:    "a program and its arguments, with quotes around what belongs together",
			set: func(c *Config, v string) bool {
				c.WorkerCommand = v
				_, err := SplitCommand(v)
				return err == nil
			},
		}, {
			Name: "STEM_TASKS_CONFIG", Flag: "tasks", Default: "none",
			Meaning: "path of the tasks file", Form: "the path of a file",
			set: func(c *Config, v string) bool { c.TasksFile = v; return true },
		},
	}
}

func serviceVariables() []Variable {
	return []Variable{
		{
			Name: "STEM_API_TOKENS", Default: "none: the API listens on loopback only", kind: secret,
			Meaning: "bearer tokens of the HTTP API, each with what it may be used for: read, enqueue, work (lease and settle) or operate (everything)",
			Form:    "NAME:ROLE[+ROLE]:TOKEN, with commas in between, or @FILE with one a line; for TOKEN also sha256: and its hash",
			set:     func(c *Config, v string) bool { c.APITokens = v; return true },
		}, {
			Name: "STEM_API_TLS_CERT", Flag: "tls-cert", Default: "none: plain HTTP",
			Meaning: "certificate of the HTTP API, the chain to its CA included; read again when it changes",
			Form:    "the path of a PEM file, or @FILE",
			set:     func(c *Config, v string) bool { c.APICert = v; return true },
		}, {
			Name: "STEM_API_TLS_KEY", Flag: "tls-key", Default: "none", kind: secret,
			Meaning: "its private key", Form: "the path of a PEM file, or @FILE",
			set: func(c *Config, v string) bool { c.APIKey = v; return true },
		}, {
			Name: "STEM_METRIC_EXPORTERS", Default: "prometheus, where a listen address is set",
			Meaning: "where measurements go: prometheus is /metrics of --http, console the log, otlp a receiver over HTTP, that of STEM_OTLP_ENDPOINT unless a URL is given",
			Form:    "none, or any of prometheus, console, otlp and otlp:URL, with commas in between",
			set: func(c *Config, v string) bool {
				x, ok := parseExporters(v)
				c.Metrics, c.NoMetrics = x, !x.Prometheus
				return ok
			},
		}, {
			Name: "STEM_OTLP_ENDPOINT", Default: "that of OTEL_EXPORTER_OTLP_ENDPOINT, or none", kind: asURL,
			Meaning: "a receiver of OTLP over HTTP: traces go there, and metrics where STEM_METRIC_EXPORTERS says otlp",
			Form:    "a URL such as http://127.0.0.1:4318",
			set:     func(c *Config, v string) bool { c.OTLP = v; return isHTTP(v) },
		}, {
			Name: "STEM_TRACE_EXPORTER", Default: "otlp, where there is an endpoint",
			Meaning: "where traces go: console is the log; how many are recorded is for OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG",
			Form:    "none, otlp, otlp:URL or console",
			set: func(c *Config, v string) bool {
				x, ok := parseExporters(v)
				c.Traces, c.TracesSet = x, true
				return ok && !x.Prometheus && (!x.Console || !x.Send)
			},
		}, {
			Name: "STEM_LOG_LEVEL", Default: "info",
			Meaning: "the least level that is logged", Form: "debug, info, warn or error",
			set: func(c *Config, v string) bool {
				c.LogLevelSet = true
				return slices.Contains([]string{"debug", "info", "warn", "error"}, v) && c.LogLevel.UnmarshalText([]byte(v)) == nil
			},
		}, {
			Name: "STEM_LOG_FORMAT", Default: "text on a terminal, json elsewhere",
			Meaning: "how logs are written", Form: "json or text",
			set: func(c *Config, v string) bool { c.LogFormat = v; return v == "json" || v == "text" },
		},
	}
}

// laterVariables are those that belong to what this version does not have. To
// set one is answered with a warning.
func laterVariables() []Variable {
	row := func(later, def, meaning string, names ...string) []Variable {
		out := make([]Variable, len(names))
		for i, n := range names {
			out[i] = Variable{Name: n, Default: def, Meaning: meaning, Later: later}
			if strings.Contains(n, "KEY") || strings.Contains(n, "TOKEN") {
				out[i].kind = secret
			}
			if strings.HasSuffix(n, "_URL") {
				out[i].kind = asURL
			}
		}
		return out
	}
	return slices.Concat(
		row("durable revocations in a store of their own", "the result backend's", "durable revocations", "STEM_REVOKE_STORE_URL"),
		row("namespaces by part", "STEM_NAMESPACE", "override it for one part",
			"STEM_WORKER_NAMESPACE", "STEM_CONTROL_NAMESPACE", "STEM_WORKFLOW_NAMESPACE", "STEM_DASHBOARD_NAMESPACE"),
		row("broadcasts", "none", "broadcast channels that a worker hears", "STEM_WORKER_BROADCASTS"),
		row("routing", "none", "path of the routing file", "STEM_ROUTING_CONFIG"),
		row("signing: envelopes are NOT signed, nor signatures checked", "none", "signatures of envelopes",
			"STEM_SIGNING_KEYS", "STEM_SIGNING_ACTIVE_KEY", "STEM_SIGNING_ALGORITHM",
			"STEM_SIGNING_PUBLIC_KEYS", "STEM_SIGNING_PRIVATE_KEYS"),
		row("encryption: arguments and results are NOT encrypted", "none", "encryption of arguments and results",
			"STEM_ENCRYPTION_KEYS", "STEM_ENCRYPTION_ACTIVE_KEY"),
		row("hooks", "true, none", "hooks, on or off by name", "STEM_SIGNALS_ENABLED", "STEM_SIGNALS_DISABLED"),
		row("migration by hand", "true", "whether a program migrates the schema at start", "STEM_AUTO_MIGRATE"),
	)
}

// given lists the variables that Stem itself gives to the processes of exec
// tasks: no setting of anybody's.
func given() []string { return []string{"STEM_TASK_ID", "STEM_TASK_NAME", "STEM_ATTEMPT"} }

// Config is the effective configuration. Load fills all of it; the zero value
// is not usable.
type Config struct {
	Broker       string // URL; "": not set
	Results      string // URL; "": the broker's
	Schedules    string // URL; "": the broker's
	Namespace    string
	DefaultQueue string
	TLS          TLS // of connections to stores

	Concurrency   int
	Prefetch      int // 0: auto
	MaxRetries    int
	Lease         time.Duration
	Retention     time.Duration // task.Forever: for ever
	DeadLetterTTL time.Duration // 0: for ever

	HeartbeatInterval time.Duration
	ControlTimeout    time.Duration // for the replies of workers

	TasksFile     string // "": none
	WorkerCommand string // of worker multi; "": the program's own
	APITokens     string // for httpapi.ParseTokens; "": none
	APICert       string // path of a PEM file, or PEM; "": plain HTTP
	APIKey        string // likewise

	NoMetrics bool      // nothing for Prometheus
	Metrics   Exporters // beside that
	OTLP      string    // URL of a receiver; "": none named
	Traces    Exporters
	TracesSet bool // Traces was chosen by somebody

	LogLevel    slog.Level
	LogLevelSet bool   // LogLevel was chosen by somebody
	LogFormat   string // "json", "text", or "": by where it goes
}

func defaults() Config {
	return Config{
		Namespace: DefaultNamespace, DefaultQueue: DefaultQueue,
		Concurrency: 4 * runtime.GOMAXPROCS(0), MaxRetries: 3, Lease: broker.DefaultLease, Retention: 24 * time.Hour,
		HeartbeatInterval: 10 * time.Second, ControlTimeout: 5 * time.Second,
	}
}

// Options returns how to open the configured stores.
func (c *Config) Options() Options {
	return Options{Broker: c.Broker, Results: c.Results, Schedules: c.Schedules, Namespace: c.Namespace, TLS: c.TLS}
}

// number reads a whole number in [least, most]: digits and nothing else.
func number(text string, least, most int, to *int) bool {
	n, err := strconv.Atoi(text)
	if err != nil || strconv.Itoa(n) != text || n < least || n > most {
		return false
	}
	*to = n
	return true
}

// duration reads a Go duration of at least so much.
func duration(text string, least time.Duration, to *time.Duration) bool {
	d, err := time.ParseDuration(text)
	if err != nil || d < least {
		return false
	}
	*to = d
	return true
}

const namespaceForm = "1–32 of a-z 0-9 _, a letter first"

func validateNamespace(n string) error {
	ok := len(n) >= 1 && len(n) <= 32 && n[0] >= 'a' && n[0] <= 'z'
	for i := range len(n) {
		c := n[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_')
	}
	if !ok {
		return fmt.Errorf("%w namespace %.40q: want %s", task.ErrInvalid, n, namespaceForm)
	}
	return nil
}
