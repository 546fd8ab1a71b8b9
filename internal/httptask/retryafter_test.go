package httptask_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stemjobs/stem/internal/httptask"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		header, date string
		want         time.Duration // 0: none
	}{
		"seconds":               {"120", "", 2 * time.Minute},
		"white space":           {" 7 ", "", 7 * time.Second},
		"leading zeros":         {"007", "", 7 * time.Second},
		"none":                  {"0", "", 0},
		"a day":                 {"86400", "", day},
		"more than a day":       {"86401", "", day},
		"more than a number":    {"99999999999999999999999", "", day},
		"negative":              {"-5", "", 0},
		"signed":                {"+5", "", 0},
		"fraction":              {"1.5", "", 0},
		"exponent":              {"1e3", "", 0},
		"unit":                  {"5s", "", 0},
		"hexadecimal":           {"0x10", "", 0},
		"other digits":          {"٣", "", 0},
		"missing":               {"", "", 0},
		"a word":                {"soon", "", 0},
		"moment":                {"Sun, 01 Mar 2026 12:05:00 GMT", "", 5 * time.Minute},
		"moment, RFC 850":       {"Sunday, 01-Mar-26 12:05:00 GMT", "", 5 * time.Minute},
		"moment, asctime":       {"Sun Mar  1 12:05:00 2026", "", 5 * time.Minute},
		"moment in the past":    {"Sun, 01 Mar 2026 11:59:59 GMT", "", 0},
		"moment, now":           {"Sun, 01 Mar 2026 12:00:00 GMT", "", 0},
		"moment far away":       {"Fri, 31 Dec 9999 23:59:59 GMT", "", day},
		"moment of long ago":    {"Mon, 01 Jan 0001 00:00:00 GMT", "", 0},
		"by the server's clock": {"Sun, 01 Mar 2026 15:00:30 GMT", "Sun, 01 Mar 2026 15:00:00 GMT", 30 * time.Second},
		"server is behind":      {"Sun, 01 Mar 2026 11:00:30 GMT", "Sun, 01 Mar 2026 11:00:00 GMT", 30 * time.Second},
		"server's date is none": {"Sun, 01 Mar 2026 12:05:00 GMT", "today", 5 * time.Minute},
		"ISO date":              {"2026-03-01T12:05:00Z", "", 0},
		"moment without day":    {"01 Mar 2026 12:05:00 GMT", "", 0},
	} {
		h := http.Header{}
		if c.header != "" {
			h.Set("Retry-After", c.header)
		}
		if c.date != "" {
			h.Set("Date", c.date)
		}
		got, ok := httptask.RetryAfter(h, now)
		if ok != (c.want > 0) || ok && got != c.want {
			t.Errorf("%s: RetryAfter(%q) = %s, %v; want %s", name, c.header, got, ok, c.want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"120", "0", "-1", "99999999999999999999", "Sun, 01 Mar 2026 12:05:00 GMT", "Sunday, 01-Mar-26 12:05:00 GMT", "x"} {
		f.Add(s, "Sun, 01 Mar 2026 12:00:00 GMT", int64(1_772_366_400))
		f.Add(s, "", int64(0))
	}
	f.Fuzz(func(t *testing.T, header, date string, now int64) {
		h := http.Header{"Retry-After": {header}, "Date": {date}}
		wait, ok := httptask.RetryAfter(h, time.Unix(now, 0))
		if ok && (wait <= 0 || wait > httptask.MaxRetryAfter) {
			t.Fatalf("RetryAfter = %s: out of its bounds", wait)
		}
		if again, same := httptask.RetryAfter(h, time.Unix(now, 0)); again != wait || same != ok {
			t.Fatalf("RetryAfter = %s, %v and then %s, %v", wait, ok, again, same)
		}
	})
}
