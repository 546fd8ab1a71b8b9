package stemcmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/stemjobs/stem/task"
)

// settings is a flag value that may be given again: PATH=VALUE, a change of
// the arguments.
type settings []setting

type setting struct {
	text  string   // the path as it was given
	path  []string // below args
	value json.RawMessage
}

func (v *settings) String() string {
	text := make([]string, len(*v))
	for i, s := range *v {
		text[i] = s.text + "=" + string(s.value)
	}
	return strings.Join(text, ", ")
}

// names says what is changed, and not to what, for records that are kept.
func (v *settings) names() string {
	names := make([]string, len(*v))
	for i, s := range *v {
		names[i] = s.text
	}
	return strings.Join(names, ",")
}

func (v *settings) Type() string { return "path=value" }
func (v *settings) Set(text string) error {
	path, value, ok := strings.Cut(text, "=")
	parts := splitPath(path)
	if !ok || parts[0] != "args" {
		return errors.New("want PATH=VALUE with a path that begins with args, such as args.user.email=a@example.com")
	}
	for _, p := range parts {
		if p == "" {
			return fmt.Errorf("the path %s has an empty name", path)
		}
	}
	s := setting{text: path, path: parts[1:], value: json.RawMessage(value)}
	if task.ValidateJSON("value", s.value) != nil || len(bytes.TrimSpace(s.value)) == 0 {
		var err error
		if s.value, err = plainJSON(value); err != nil {
			return err
		}
	}
	*v = append(*v, s)
	return nil
}

// splitPath splits at dots that have no backslash before them.
func splitPath(path string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			b.WriteByte(path[i])
		case c == '.':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(parts, b.String())
}

// plainJSON is a value as JSON without HTML's escapes.
func plainJSON(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	if err := encodeJSON(&b, v, "", ""); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// apply makes the changes, one after the other. What they do not name stays as
// it is, also numbers that no float holds.
func (v settings) apply(args json.RawMessage) (json.RawMessage, error) {
	for _, s := range v {
		changed, err := setAt(args, s.path, s.value)
		if err != nil {
			return nil, usage("--set %s: %w", s.text, err)
		}
		args = changed
	}
	return args, nil
}

// setAt returns doc with the value at a path. Objects that are not there are
// made; the end of a list is one place past its last.
func setAt(doc json.RawMessage, path []string, value json.RawMessage) (json.RawMessage, error) {
	if len(path) == 0 {
		return value, nil
	}
	name, rest := path[0], path[1:]
	switch doc = bytes.TrimSpace(doc); {
	case len(doc) == 0, string(doc) == "null":
		doc = json.RawMessage("{}")
	case doc[0] == '[':
		return setItem(doc, name, rest, value)
	case doc[0] != '{':
		return nil, fmt.Errorf("there is no %q in %.40s: it is neither an object nor a list", name, doc)
	}
	object := map[string]json.RawMessage{}
	if err := json.Unmarshal(doc, &object); err != nil {
		return nil, fmt.Errorf("read the arguments: %w", err)
	}
	changed, err := setAt(object[name], rest, value)
	if err != nil {
		return nil, err
	}
	object[name] = changed
	return plainJSON(object)
}

func setItem(doc json.RawMessage, name string, rest []string, value json.RawMessage) (json.RawMessage, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(doc, &list); err != nil {
		return nil, fmt.Errorf("read the arguments: %w", err)
	}
	i, err := strconv.Atoi(name)
	if err != nil || i < 0 || i > len(list) || name != strconv.Itoa(i) {
		return nil, fmt.Errorf("%q is no place in a list of %d: want 0 to %d", name, len(list), len(list))
	}
	if i == len(list) {
		list = append(list, nil)
	}
	if list[i], err = setAt(list[i], rest, value); err != nil {
		return nil, err
	}
	return plainJSON(list)
}
