package exectask

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// argument is one word of a command line: text, with places that fields of the
// task's arguments fill.
type argument struct {
	parts []part
	// open allows values that begin with - or @.
	open bool
}

// part is text, or the name of a field.
type part struct {
	text  string
	field string
}

const fieldCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// parseArgument reads {{.name}} places. Nothing else may stand in double
// braces: there are no functions, no conditions and no paths.
func parseArgument(s string) (argument, error) {
	var a argument
	for {
		before, rest, found := strings.Cut(s, "{{")
		if before != "" {
			a.parts = append(a.parts, part{text: before})
		}
		if !found {
			return a, nil
		}
		inner, after, closed := strings.Cut(rest, "}}")
		if !closed {
			return a, fmt.Errorf("%q: {{ without }}", s)
		}
		field, dotted := strings.CutPrefix(strings.TrimSpace(inner), ".")
		if !dotted || field == "" || strings.Trim(field, fieldCharacters) != "" {
			return a, fmt.Errorf("{{%s}}: want {{.name}}, the name of one of the task's arguments", inner)
		}
		a.parts = append(a.parts, part{field: field})
		s = after
	}
}

// fixed is the argument's text; ok is false when fields fill it.
func (a argument) fixed() (text string, ok bool) {
	for _, p := range a.parts {
		if p.field != "" {
			return "", false
		}
		text += p.text
	}
	return text, true
}

// fill puts the fields' values in their places.
func (a argument) fill(args map[string]json.RawMessage) (string, error) {
	var word strings.Builder
	for _, p := range a.parts {
		if p.field == "" {
			word.WriteString(p.text)
			continue
		}
		raw, ok := args[p.field]
		if !ok {
			return "", fmt.Errorf("argument %q is missing", p.field)
		}
		value, err := scalar(raw)
		if err != nil {
			return "", fmt.Errorf("argument %q: %w", p.field, err)
		}
		if !a.open && (strings.HasPrefix(value, "-") || strings.HasPrefix(value, "@")) {
			return "", fmt.Errorf(`argument %q is %.40q: a value that begins with - or @ could be taken for an option; `+
				`put "--" before it in the task's exec, or set allow_option_values`, p.field, value)
		}
		word.WriteString(value)
	}
	return word.String(), nil
}

// scalar is a JSON value as a word of a command line.
func scalar(raw json.RawMessage) (string, error) {
	switch raw[0] {
	case '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", err
		}
		if strings.ContainsRune(s, 0) {
			return "", errors.New("it has a zero byte, which no command line can hold")
		}
		return s, nil
	case '{', '[':
		return "", errors.New("it is no single value; the command can read it on its standard input")
	case 'n':
		return "", errors.New("it is null")
	default:
		return string(raw), nil // a number, digit for digit, or true or false
	}
}

// commandLine fills a whole exec list.
func commandLine(exec []argument, raw json.RawMessage) ([]string, error) {
	words := make([]string, len(exec))
	var args map[string]json.RawMessage
	for i, a := range exec {
		text, ok := a.fixed()
		if ok {
			words[i] = text
			continue
		}
		if args == nil {
			if err := json.Unmarshal(raw, &args); err != nil || args == nil {
				return nil, fmt.Errorf("the arguments are %.40s: want an object with the fields that the command line names", raw)
			}
		}
		word, err := a.fill(args)
		if err != nil {
			return nil, err
		}
		words[i] = word
	}
	return words, nil
}
