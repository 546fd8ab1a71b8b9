package connect

import (
	"net/url"
	"strings"
)

// Exporters is where measurements or traces go.
type Exporters struct {
	Prometheus bool
	Console    bool
	Send       bool   // to a receiver of OTLP
	URL        string // of that receiver; "": Config.OTLP
}

// parseExporters reads names with commas in between, each once, or none.
func parseExporters(text string) (x Exporters, ok bool) {
	if text == "none" {
		return x, true
	}
	for name := range strings.SplitSeq(text, ",") {
		var flag *bool
		name = strings.TrimSpace(name)
		to, named := strings.CutPrefix(name, "otlp:")
		switch {
		case name == "prometheus":
			flag = &x.Prometheus
		case name == "console":
			flag = &x.Console
		case name == "otlp":
			flag = &x.Send
		case named && isHTTP(to):
			flag, x.URL = &x.Send, to
		default:
			return x, false
		}
		if *flag {
			return x, false
		}
		*flag = true
	}
	return x, true
}

// isHTTP reports whether a text is a URL that something can be posted to.
func isHTTP(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" && u.Fragment == ""
}
