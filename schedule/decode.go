package schedule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MarshalJSON writes the definition as an object of the fields that it has.
func (d Definition) MarshalJSON() ([]byte, error) {
	return json.Marshal(d.fields())
}

// UnmarshalJSON reads an object of these fields, or text. An unknown field is an
// error; so is what ParseDefinition refuses, and a value of the wrong type.
func (d *Definition) UnmarshalJSON(data []byte) error {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return fmt.Errorf("read a schedule's spec: %w", err)
	}
	return d.from(value)
}

// MarshalYAML is MarshalJSON for the YAML libraries that call it.
func (d Definition) MarshalYAML() (any, error) { return d.fields(), nil }

// UnmarshalYAML is UnmarshalJSON for the YAML libraries that call it.
func (d *Definition) UnmarshalYAML(unmarshal func(any) error) error {
	var value any
	if err := unmarshal(&value); err != nil {
		return err
	}
	return d.from(value)
}

// written is a definition as its object has it, in the order of the fields.
type written struct {
	Cron      string   `json:"cron,omitempty" yaml:"cron,omitempty"`
	Timezone  string   `json:"timezone,omitempty" yaml:"timezone,omitempty"`
	Every     string   `json:"every,omitempty" yaml:"every,omitempty"`
	StartAt   string   `json:"startAt,omitempty" yaml:"startAt,omitempty"`
	Solar     string   `json:"solar,omitempty" yaml:"solar,omitempty"`
	Latitude  *float64 `json:"latitude,omitempty" yaml:"latitude,omitempty"`
	Longitude *float64 `json:"longitude,omitempty" yaml:"longitude,omitempty"`
	Offset    string   `json:"offset,omitempty" yaml:"offset,omitempty"`
	Clocked   string   `json:"clocked,omitempty" yaml:"clocked,omitempty"`
}

func (d Definition) fields() written {
	w := written{Cron: d.Cron, Timezone: d.Timezone, Solar: d.Solar}
	if d.Every != 0 {
		w.Every = durationText(d.Every)
	}
	if !d.StartAt.IsZero() {
		w.StartAt = momentText(d.StartAt)
	}
	if d.Solar != "" {
		w.Latitude, w.Longitude = &d.Latitude, &d.Longitude
	}
	if d.Offset != 0 {
		w.Offset = durationText(d.Offset)
	}
	if !d.Clocked.IsZero() {
		w.Clocked = momentText(d.Clocked)
	}
	return w
}

// from takes what a decoder made of JSON or YAML: text or a map.
func (d *Definition) from(value any) error {
	switch v := value.(type) {
	case string:
		def, err := ParseDefinition(v)
		if err != nil {
			return err
		}
		*d = def
		return nil
	case map[string]any:
		return d.fromFields(v)
	default:
		return wrong("spec", shown(value), "text or an object; "+wantSpec)
	}
}

func (d *Definition) fromFields(fields map[string]any) error {
	var def Definition
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if err := def.set(name, fields[name]); err != nil {
			return err
		}
	}
	if def.Solar != "" {
		for _, name := range []string{"latitude", "longitude"} {
			if _, ok := fields[name]; !ok {
				return wrong(name, "", wantDegrees(name))
			}
		}
	}
	*d = def
	return nil
}

func (d *Definition) set(name string, value any) (err error) {
	switch name {
	case "latitude":
		d.Latitude, err = degrees(name, value)
		return err
	case "longitude":
		d.Longitude, err = degrees(name, value)
		return err
	}
	if t, ok := value.(time.Time); ok { // a YAML library's own reading of a moment
		value = t.Format(time.RFC3339Nano)
	}
	text, ok := value.(string)
	if !ok || text == "" {
		return wrong(name, shown(value), "text that says something")
	}
	switch name {
	case "cron":
		d.Cron = text
	case "timezone":
		d.Timezone = text
	case "every":
		if d.Every, err = parseDuration(name, text); err == nil && d.Every <= 0 {
			err = wrong(name, text, "a time that is longer than none")
		}
	case "startAt":
		d.StartAt, err = parseMoment(name, text)
	case "solar":
		d.Solar = text
	case "offset":
		d.Offset, err = parseDuration(name, text)
	case "clocked":
		d.Clocked, err = parseMoment(name, text)
	default:
		return wrong("spec", name, "the fields cron, timezone, every, startAt, solar, latitude, longitude, offset or clocked")
	}
	return err
}

func degrees(field string, value any) (float64, error) {
	switch v := value.(type) {
	case json.Number:
		return parseDegrees(field, v.String())
	case float64:
		return v, nil
	case int:
		return float64(v), nil
	case int64:
		return float64(v), nil
	case uint64:
		return float64(v), nil
	}
	return 0, wrong(field, shown(value), wantDegrees(field))
}

// shown is a wrong value for an error's text.
func shown(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case []any:
		return "a list of " + strconv.Itoa(len(v))
	case map[string]any:
		return "an object with " + strings.Join(slices.Sorted(maps.Keys(v)), ", ")
	}
	return fmt.Sprint(value)
}
