package foreign_test

import (
	"errors"
	"testing"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

func TestResult(t *testing.T) {
	for out, want := range map[string]string{
		`{"n":9007199254740993}`: `{"n":9007199254740993}`,
		"\n { \"a\" : 1 }\n":     `{ "a" : 1 }`,
		"hello <b> & \"you\"\n":  `"hello <b> & \"you\""`,
		"a\nb\r\n\n":             `"a\nb"`,
		"":                       `null`,
		" \r\n":                  `null`,
		"{}{}":                   `"{}{}"`,
	} {
		if got, err := foreign.Result("output", []byte(out)); err != nil || string(got) != want {
			t.Errorf("Result(%q) = %s, %v; want %s", out, got, err, want)
		}
	}
	_, err := foreign.Result("output", []byte("a\xff"))
	var result *runner.ResultError
	if !errors.As(err, &result) || result.Reason != task.ReasonResultInvalid {
		t.Errorf("what is no text: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	err := foreign.TooLarge("output", 5)
	var result *runner.ResultError
	if !errors.As(err, &result) || result.Reason != task.ReasonResultTooLarge || !errors.Is(err, task.ErrTooLarge) {
		t.Errorf("%v", err)
	}
}
