package stemcmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/rivo/uniseg"
)

// The values of --output.
const (
	asTable = "table"
	asWide  = "wide"
	asJSON  = "json"
	asJSONL = "jsonl"
	asName  = "name"
)

func formats() []string { return []string{asTable, asWide, asJSON, asJSONL, asName} }

// column is one column of a table.
type column[T any] struct {
	head  string
	wide  bool // only with --output wide
	right bool // numbers
	cell  func(*T) string
	paint func(*T) string // an ANSI colour; nil: none
}

// view says how a kind of thing is shown.
type view[T any] struct {
	columns []column[T]
	name    func(*T) string // of --output name
	json    func(*T) any    // nil: the thing itself
	empty   string          // told when there is none
}

// list shows all items in the chosen format, page by page, and returns how
// many there were. It stops when the reader went away.
func list[T any](s *session, v view[T], pages iter.Seq2[[]T, error]) (int, error) {
	p := &lister[T]{s: s, view: v, out: &bytes.Buffer{}}
	p.begin()
	for page, err := range pages {
		if err != nil {
			return p.n, errors.Join(err, p.end())
		}
		if err := p.page(page); err != nil || s.stdout.gone.Load() {
			return p.n, err
		}
	}
	if p.n == 0 && v.empty != "" && (s.flags.output == asTable || s.flags.output == asWide) {
		s.note("%s", v.empty)
	}
	return p.n, p.end()
}

// one is list for what is there at once.
func one[T any](items []T) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) { yield(items, nil) }
}

// lister writes one listing.
type lister[T any] struct {
	s      *session
	view   view[T]
	out    *bytes.Buffer
	n      int
	widths []int
}

func (l *lister[T]) begin() {
	if l.s.flags.output == asJSON {
		l.out.WriteString("[")
	}
}

func (l *lister[T]) end() error {
	if l.s.flags.output == asJSON {
		if l.n > 0 {
			l.out.WriteByte('\n')
		}
		l.out.WriteString("]\n")
	}
	return l.flush()
}

func (l *lister[T]) flush() error {
	_, err := l.s.stdout.Write(l.out.Bytes())
	l.out.Reset()
	return err
}

func (l *lister[T]) page(items []T) error {
	if f := l.s.flags.output; f == asTable || f == asWide {
		l.table(items)
		l.n += len(items)
		return l.flush()
	}
	for i := range items {
		if err := l.item(&items[i]); err != nil {
			return err
		}
		l.n++
	}
	return l.flush()
}

func (l *lister[T]) item(x *T) error {
	if l.s.flags.output == asName {
		fmt.Fprintln(l.out, clean(l.view.name(x)))
		return nil
	}
	var v any = x
	if l.view.json != nil {
		v = l.view.json(x)
	}
	if l.s.flags.output == asJSONL {
		return encodeJSON(l.out, v, "", "")
	}
	if l.n > 0 {
		l.out.WriteByte(',')
	}
	l.out.WriteString("\n  ")
	if err := encodeJSON(l.out, v, "  ", "  "); err != nil {
		return err
	}
	l.out.Truncate(l.out.Len() - 1) // the newline, in case a comma follows
	return nil
}

// encodeJSON writes a value and a newline, without HTML's escapes.
func encodeJSON(w io.Writer, v any, prefix, indent string) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, indent)
	return e.Encode(v)
}

// object shows one thing as JSON or JSONL, and reports whether it did.
func (s *session) object(v any) (bool, error) {
	switch s.flags.output {
	case asJSON:
		return true, encodeJSON(s.stdout, v, "", "  ")
	case asJSONL:
		return true, encodeJSON(s.stdout, v, "", "")
	default:
		return false, nil
	}
}

// table writes the rows, and the heads before the first of them. Columns keep
// the width that the first page gave them, or grow.
func (l *lister[T]) table(items []T) {
	if len(items) == 0 {
		return
	}
	var columns []column[T]
	for _, c := range l.view.columns {
		if !c.wide || l.s.flags.output == asWide {
			columns = append(columns, c)
		}
	}
	first := l.widths == nil
	if first {
		l.widths = make([]int, len(columns))
		for i, c := range columns {
			l.widths[i] = len(c.head)
		}
	}
	rows := make([][]string, len(items))
	for r := range items {
		rows[r] = make([]string, len(columns))
		for i, c := range columns {
			rows[r][i] = oneLine(c.cell(&items[r]), maxCell)
			l.widths[i] = max(l.widths[i], uniseg.StringWidth(rows[r][i]))
		}
	}
	colour := l.s.colour(l.s.p.Stdout)
	if first {
		for i, c := range columns {
			l.cell(i, len(columns), c.head, c.right, "")
		}
	}
	for r, row := range rows {
		for i, text := range row {
			paint := ""
			if c := columns[i]; colour && c.paint != nil {
				paint = c.paint(&items[r])
			}
			l.cell(i, len(columns), text, columns[i].right, paint)
		}
	}
}

// maxCell bounds a cell, in runes.
const maxCell = 100

// cell writes the i-th of n cells of a row, painted, and the gap or the end of
// line after it.
func (l *lister[T]) cell(i, n int, text string, right bool, paint string) {
	pad := strings.Repeat(" ", max(0, l.widths[i]-uniseg.StringWidth(text)))
	if right {
		l.out.WriteString(pad)
	}
	if paint != "" {
		text = paint + text + plainColour
	}
	l.out.WriteString(text)
	if i == n-1 {
		if text == "" { // no blanks at the end of the line
			l.out.Truncate(len(bytes.TrimRight(l.out.Bytes(), " ")))
		}
		l.out.WriteByte('\n')
		return
	}
	if !right {
		l.out.WriteString(pad)
	}
	l.out.WriteString("  ")
}

// Colours of a terminal.
const (
	red         = "\x1b[31m"
	green       = "\x1b[32m"
	yellow      = "\x1b[33m"
	cyan        = "\x1b[36m"
	faint       = "\x1b[2m"
	bold        = "\x1b[1m"
	plainColour = "\x1b[0m"
)

// ago tells a moment as how long ago it was, or how long it is until then.
func ago(t time.Time) string {
	const century = 100 * 365 * 24 * time.Hour
	switch d := time.Since(t); {
	case t.IsZero():
		return "-"
	case d < -century: // beyond what a duration holds, perhaps, and what a number of days tells
		return moment(t)
	case d < 0:
		return "in " + span(-d)
	default:
		return span(d) + " ago"
	}
}

// span tells a duration in two units at most.
func span(d time.Duration) string {
	unit := time.Minute
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d < time.Second:
		unit = time.Millisecond
	case d < time.Minute:
		unit = 100 * time.Millisecond
	case d < time.Hour:
		unit = time.Second
	}
	text := d.Round(unit).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// moment tells a moment in full, in UTC.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// utcTime returns a moment as JSON shows it.
func utcTime(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}
