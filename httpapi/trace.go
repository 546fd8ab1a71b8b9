package httpapi

import (
	"strings"

	"github.com/stemjobs/stem/measure"
)

// maxTraceState is as much of a trace's state as every receiver passes on.
const maxTraceState = 512

// traceInto makes a new task go on in the trace of the request, unless it names
// one itself. What is malformed is as good as none, as W3C Trace Context has it.
func (c *call) traceInto(n *NewTask) {
	parents := c.r.Header["Traceparent"]
	if len(parents) != 1 {
		return
	}
	t := measure.TraceContext{Parent: parents[0], State: strings.Join(c.r.Header["Tracestate"], ",")}
	if !t.Valid() {
		return
	}
	for k := range n.Headers {
		if strings.EqualFold(k, measure.HeaderTraceParent) {
			return
		}
	}
	headers := make(map[string]string, len(n.Headers)+2)
	for k, v := range n.Headers {
		if !strings.EqualFold(k, measure.HeaderTraceState) {
			headers[k] = v
		}
	}
	headers[measure.HeaderTraceParent] = t.Parent
	if t.State != "" && len(t.State) <= maxTraceState {
		headers[measure.HeaderTraceState] = t.State
	}
	n.Headers = headers
}
