package admin

import (
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"
)

const (
	defaultSeconds = 30
	maxSeconds     = 60
)

// addPprof serves the profiles as "go tool pprof" and "go tool trace" ask for
// them.
func addPprof(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/{$}", listProfiles)
	mux.HandleFunc("GET /debug/pprof/profile", record("profile", pprof.StartCPUProfile, pprof.StopCPUProfile))
	mux.HandleFunc("GET /debug/pprof/trace", record("trace", trace.Start, trace.Stop))
	mux.HandleFunc("GET /debug/pprof/{name}", lookUp)
}

func listProfiles(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, p := range pprof.Profiles() {
		fmt.Fprintf(w, "%-14s %d\n", p.Name(), p.Count())
	}
	fmt.Fprintf(w, "profile        ?seconds=%d\ntrace          ?seconds=%d\n", defaultSeconds, defaultSeconds)
}

// lookUp writes a snapshot, as text when the query has debug=1 or 2.
func lookUp(w http.ResponseWriter, r *http.Request) {
	p := pprof.Lookup(r.PathValue("name"))
	if p == nil {
		http.Error(w, "no such profile: /debug/pprof/ lists them", http.StatusNotFound)
		return
	}
	debug := 0
	switch r.FormValue("debug") {
	case "1":
		debug = 1
	case "2":
		debug = 2
	}
	setProfileType(w, debug > 0)
	// The status is sent with the first byte: a client that went away meanwhile
	// is nobody to tell.
	_ = p.WriteTo(w, debug)
}

// record runs a recording for the seconds asked for, or until the client goes.
// The runtime allows one recording of a kind at a time.
func record(what string, start func(io.Writer) error, stop func()) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		seconds := float64(defaultSeconds)
		if v := r.FormValue("seconds"); v != "" {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil || !(n > 0 && n <= maxSeconds) {
				http.Error(w, fmt.Sprintf("seconds=%q: want a number up to %d", v, maxSeconds), http.StatusBadRequest)
				return
			}
			seconds = n
		}
		setProfileType(w, false)
		if err := start(w); err != nil {
			http.Error(w, fmt.Sprintf("start a %s: %v", what, err), http.StatusConflict)
			return
		}
		defer stop()
		select {
		case <-time.After(time.Duration(seconds * float64(time.Second))):
		case <-r.Context().Done():
		}
	}
}

func setProfileType(w http.ResponseWriter, text bool) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if text {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
}
