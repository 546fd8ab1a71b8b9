package beat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/stemjobs/stem/store"
)

// A file of schedules is YAML or JSON:
//
//	schedules:
//	  - id: nightly-report
//	    task: report.build
//	    spec: {cron: "0 2 * * *", timezone: Europe/Berlin}
//	    args: {kind: daily}
//	    options: {queue: reports, priority: 7}
//	    misfire: {policy: latest, grace: 1h}
//	  - {id: tick, task: demo.tick, spec: "every:5m"}

// LoadFile reads a file of schedules; see ParseFile.
func LoadFile(path string) ([]Desired, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("schedules file: %w", err)
	}
	defer f.Close() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("schedules file: %w", err)
	}
	return ParseFile(path, data)
}

// maxErrors is how many errors of a file are told at once.
const maxErrors = 20

// ParseFile reads the content of a file of schedules, at most 1 MiB; path is its
// name for errors. The error joins a *FileError, with its line, for each entry
// that is wrong, 20 at most. Keys that are not known are refused, and so are YAML's anchors
// and aliases.
func ParseFile(path string, data []byte) ([]Desired, error) {
	entries, err := entryNodes(data)
	if err != nil {
		return nil, inFile(path, err)
	}
	desired := make([]Desired, 0, len(entries))
	first := map[string]int{} // the line of each id
	var errs []error
	for _, n := range entries {
		d, err := parseEntry(n)
		if err == nil && first[d.ID] != 0 {
			err = wrongAt(d.Line, "id: %q is there twice, first on line %d", d.ID, first[d.ID])
		}
		if err != nil {
			if errs = append(errs, inFile(path, err)); len(errs) == maxErrors {
				break
			}
			continue
		}
		first[d.ID] = d.Line
		desired = append(desired, d)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return desired, nil
}

func inFile(path string, err error) error {
	var at *atLine
	if errors.As(err, &at) {
		return &FileError{Path: path, Line: at.line, Err: at.err}
	}
	return &FileError{Path: path, Err: err}
}

// entryNodes finds the entries of a document.
func entryNodes(data []byte) ([]ast.Node, error) {
	root, err := document(data)
	if err != nil {
		return nil, err
	}
	var values []*ast.MappingValueNode
	switch n := root.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		return nil, wrongAt(line(root), "want schedules: and a list of entries")
	}
	var entries []ast.Node
	found := false
	for _, v := range values {
		if key, _ := keyText(v.Key); key != "schedules" {
			return nil, wrongAt(line(v.Key), "unknown key %.60q (known: schedules)", key)
		}
		found = true
		switch list := v.Value.(type) {
		case *ast.SequenceNode:
			entries = list.Values
		case *ast.NullNode:
		default:
			return nil, wrongAt(line(v.Key), "schedules: want a list of entries")
		}
	}
	if !found {
		return nil, wrongAt(0, "it is empty: want schedules:")
	}
	return entries, nil
}

func parseEntry(n ast.Node) (Desired, error) {
	var d Desired
	var raw bytes.Buffer
	where := lines{"": line(n)}
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		where[""] = line(m.Values[0].Key)
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		where[""] = line(m.Key)
	}
	if err := toJSON(&raw, n, "", where); err != nil {
		return d, err
	}
	d, err := parseDesired(raw.Bytes())
	d.Line = where.of("")
	if err == nil {
		err = d.Validate()
	}
	if err != nil {
		at := d.Line
		var field *FieldError
		if errors.As(err, &field) {
			at = where.of(field.Field)
		}
		if d.ID != "" {
			err = fmt.Errorf("schedule %.140s: %w", d.ID, err)
		}
		return d, &atLine{at, err}
	}
	return d, nil
}

// ParseDesired reads one entry as JSON: its fields, and version, which an entry
// of the store must be at.
func ParseDesired(raw []byte) (Desired, error) {
	d, err := parseDesired(raw)
	if err == nil {
		err = d.Validate()
	}
	return d, err
}

func parseDesired(raw []byte) (Desired, error) {
	var d Desired
	var own struct {
		ID      string          `json:"id"`
		Version json.RawMessage `json:"version"`
	}
	if json.Unmarshal(raw, &own) == nil && own.Version != nil {
		v, err := strconv.ParseInt(string(own.Version), 10, 64)
		if err != nil || v < 1 {
			d.ID = own.ID // for the error
			return d, wrong("version", "%.40s: want the number of the version that it was made from", own.Version)
		}
		d.Version = v
		if raw, err = without(raw, "version"); err != nil {
			return d, err
		}
	}
	err := d.Entry.UnmarshalJSON(raw)
	if d.ID == "" {
		d.ID = own.ID // for the error
	}
	return d, err
}

func without(raw []byte, name string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, wrong("", "want an object")
	}
	delete(fields, name)
	return marshal(fields)
}

// ExportFile writes entries as a file of schedules, in YAML or in JSON.
func ExportFile(w io.Writer, entries []store.Schedule, asJSON bool) error {
	type export struct {
		Schedules []json.RawMessage `json:"schedules"`
	}
	all := export{Schedules: []json.RawMessage{}}
	for i := range entries {
		raw, err := exported(&entries[i])
		if err != nil {
			return fmt.Errorf("export schedule %s: %w", entries[i].ID, err)
		}
		all.Schedules = append(all.Schedules, raw)
	}
	raw, err := marshal(all)
	if err != nil {
		return err
	}
	if !asJSON {
		if raw, err = yaml.JSONToYAML(raw); err != nil {
			return fmt.Errorf("export schedules: %w", err)
		}
	} else {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, raw, "", "  "); err != nil {
			return fmt.Errorf("export schedules: %w", err)
		}
		pretty.WriteByte('\n')
		raw = pretty.Bytes()
	}
	_, err = w.Write(raw)
	return err
}

// exported is an entry as it was applied, also one that this version cannot read
// whole.
func exported(s *store.Schedule) (json.RawMessage, error) {
	var e Entry
	if err := e.read(s.Definition, true); err != nil {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(s.Definition, &fields); err != nil {
			return nil, err
		}
		raw, err := marshal(s.ID)
		fields["id"] = raw
		if err != nil {
			return nil, err
		}
		return marshal(fields)
	}
	e.ID = s.ID
	return e.MarshalJSON()
}
