package fingerprint_test

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/stemjobs/stem/internal/fingerprint"
)

func TestNormalise(t *testing.T) {
	for message, want := range map[string]string{
		"":                                   "",
		"timed out after 30s":                "timed out after <n>s",
		"order 17 of 2.5 at 10:30:05 failed": "order <n> of <n> at <n> failed",
		"user 'a b' not found":               "user <text> not found",
		`open "report 7.csv": no such file`:  "open <text>: no such file",
		"open /var/lib/x/17.csv: no such file or directory": "open <path>: no such file or directory",
		`open C:\data\17.csv: denied`:                       "open <path>: denied",
		"Get \"https://api.example.com/v1/17\": EOF":        "Get <text>: EOF",
		"POST https://api.example.com/v1/17?a=b: 502":       "POST <url>: <n>",
		"pointer 0xC000123ab is nil":                        "pointer <hex> is nil",
		"commit deadbeef12 not found":                       "commit <hex> not found",
		"a dead beef is food":                               "a dead beef is food",
		"task 0198c0de-0000-7000-8000-000000000001 exists":  "task <uuid> exists",
		"can't connect, won't retry":                        "can't connect, won't retry",
		"line one\n\tline  two":                             "line one line two",
		"read tcp 127.0.0.1:53122->127.0.0.1:6379: reset":   "read tcp <n>-><n>: reset",
	} {
		if got := fingerprint.Normalise(message); got != want {
			t.Errorf("Normalise(%q) = %q, want %q", message, got, want)
		}
	}
}

// words are what messages of the tests are made of.
func words() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{
		"open", "the", "report", "failed", "user", "not found", "dead", "beef", "can't", "timeout:", "(", ")", "=", "€", "«x»",
	})
}

func message() *rapid.Generator[string] {
	parts := rapid.SliceOfN(rapid.OneOf(
		words(), rapid.StringMatching(`[0-9]{1,9}`), rapid.StringMatching(`0x[0-9a-f]{1,12}`), rapid.StringMatching(`"[ -~]{0,9}"`),
		rapid.StringMatching(`/[a-z0-9/.]{1,20}`), rapid.String(), rapid.StringMatching(`<[a-z]{0,5}>?`),
	), 0, 60)
	return rapid.Map(parts, func(p []string) string { return strings.Join(p, " ") })
}

func TestNormaliseIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := message().Draw(t, "message")
		text := fingerprint.Normalise(m)
		if again := fingerprint.Normalise(text); again != text {
			t.Errorf("%q\nonce  %q\ntwice %q", m, text, again)
		}
		if len(text) > 300 || !utf8.ValidString(text) || strings.ContainsAny(text, "0123456789\n\t") {
			t.Errorf("%q: normalised to %d bytes: %q", m, len(text), text)
		}
	})
}

func TestDetailsDoNotMatter(t *testing.T) {
	detail := rapid.SampledFrom([]func(t *rapid.T) string{
		func(t *rapid.T) string { return strconv.Itoa(rapid.IntRange(0, 1<<40).Draw(t, "n")) },
		func(t *rapid.T) string { return strconv.Quote(rapid.StringMatching(`[ -~]{0,20}`).Draw(t, "text")) },
		func(t *rapid.T) string {
			var u uuid.UUID
			copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
			return u.String()
		},
		func(t *rapid.T) string { return "/" + rapid.StringMatching(`[a-z0-9_/.-]{0,19}[a-z]`).Draw(t, "path") },
		func(t *rapid.T) string { return "0x" + rapid.StringMatching(`[0-9a-fA-F]{1,16}`).Draw(t, "hex") },
		func(t *rapid.T) string {
			return "https://" + rapid.StringMatching(`[a-z][a-z0-9/?=]{1,20}`).Draw(t, "url")
		},
	})
	rapid.Check(t, func(t *rapid.T) {
		before := strings.Join(rapid.SliceOfN(words(), 0, 5).Draw(t, "before"), " ")
		after := strings.Join(rapid.SliceOfN(words(), 0, 5).Draw(t, "after"), " ")
		make := detail.Draw(t, "kind")
		a, b := before+" "+make(t)+" "+after, before+" "+make(t)+" "+after
		x, text := fingerprint.Of("E", a)
		y, _ := fingerprint.Of("E", b)
		if x != y {
			t.Errorf("%q and %q have two fingerprints: %q and %q", a, b, text, fingerprint.Normalise(b))
		}
		if other, _ := fingerprint.Of("F", a); other == x {
			t.Errorf("the type makes no difference")
		}
		if other, _ := fingerprint.Of("E", a+" otherwise"); other == x {
			t.Errorf("another message makes no difference")
		}
		if !fingerprint.Valid(x) || fingerprint.Valid(x+"0") || fingerprint.Valid("XYZ") {
			t.Errorf("Valid is wrong about %q", x)
		}
	})
}
