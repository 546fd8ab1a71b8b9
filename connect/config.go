package connect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/stemjobs/stem/internal/nearest"
)

// Sources is where configuration comes from, the strongest first.
type Sources struct {
	Flags   map[string]string // given on the command line, by the variable's name
	Env     []string          // KEY=VALUE, as os.Environ
	EnvFile string            // path of a file of KEY=VALUE lines; "": none
}

// Setting is the effective value of one variable.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`  // as it may be printed; of an unset one its default
	Source string `json:"source"` // "--broker", "environment", the env file's path, or "default"
	Set    bool   `json:"-"`
}

// Loaded is what Load found.
type Loaded struct {
	Config   Config
	Settings []Setting // the variables of this version, and any other that is set
	Warnings []string  // of variables that nobody knows, or that this version does not use
}

// SettingError says that a variable has a wrong value.
type SettingError struct {
	Name   string
	Source string
	Value  string // as it may be printed
	Want   string // the accepted form
	Err    error  // what went wrong, when there is more to say
}

func (e *SettingError) Error() string {
	name := e.Name
	if strings.HasPrefix(e.Source, "--") {
		name = e.Source
	}
	text := fmt.Sprintf("%s=%q", name, e.Value)
	if !strings.HasPrefix(e.Source, "--") && e.Source != fromEnvironment {
		text += " (in " + e.Source + ")"
	}
	if e.Want != "" {
		text += ": want " + e.Want
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns what went wrong beyond the form.
func (e *SettingError) Unwrap() error { return e.Err }

const fromEnvironment = "environment"

// Load reads the configuration. The error joins a *SettingError for each wrong
// value; what was loaded is returned with it, to be shown.
//
// A value that begins with @ is read from the file of that name, which keeps
// secrets out of the environment and off command lines.
func Load(s Sources) (*Loaded, error) {
	env := environment(s.Env)
	file := map[string]string{}
	var errs []error
	if s.EnvFile != "" {
		var err error
		if file, err = readEnvFile(s.EnvFile); err != nil {
			errs = append(errs, err)
		}
	}
	l := &Loaded{Config: defaults()}
	table := Variables()
	for i := range table {
		v := &table[i]
		setting, raw := lookup(v, s, env, file)
		err := l.apply(v, &setting, raw)
		if err != nil {
			errs = append(errs, err)
		}
		if setting.Set || v.Later == "" {
			l.Settings = append(l.Settings, setting)
		}
	}
	l.warnUnknown(table, env, "")
	l.warnUnknown(table, file, " (in "+s.EnvFile+")")
	return l, errors.Join(errs...)
}

// lookup finds the strongest source that sets the variable. An empty value in
// the environment counts as none, as everywhere; an empty flag does not, so
// that --broker "$TYPO" does not fall back to another store.
func lookup(v *Variable, s Sources, env, file map[string]string) (Setting, string) {
	if raw, ok := s.Flags[v.Name]; ok {
		return Setting{Name: v.Name, Source: "--" + v.Flag, Set: true}, raw
	}
	if raw := env[v.Name]; raw != "" {
		return Setting{Name: v.Name, Source: fromEnvironment, Set: true}, raw
	}
	if raw := file[v.Name]; raw != "" {
		return Setting{Name: v.Name, Source: s.EnvFile, Set: true}, raw
	}
	return Setting{Name: v.Name, Source: "default"}, ""
}

// apply puts a raw value into the configuration and its printable form into
// the setting.
func (l *Loaded) apply(v *Variable, s *Setting, raw string) error {
	if !s.Set {
		s.Value = v.Default
		return nil
	}
	fail := func(shown string, err error) error {
		s.Value = shown
		return &SettingError{Name: v.Name, Source: s.Source, Value: shown, Want: v.Form, Err: err}
	}
	value := raw
	if path, ok := strings.CutPrefix(raw, "@"); ok {
		var err error
		if value, err = readValue(path); err != nil {
			return fail(raw, err)
		}
	}
	s.Value = v.show(value)
	if v.Later != "" {
		l.Warnings = append(l.Warnings, fmt.Sprintf("%s is set, and this version does not use it: it belongs to %s", v.Name, v.Later))
		return nil
	}
	if value == "" || !v.set(&l.Config, value) {
		if value != raw {
			s.Value = raw // names the file; what it holds may be a secret
		}
		return fail(s.Value, nil)
	}
	return nil
}

// maxValue bounds what is read from a file that a value names.
const maxValue = 64 << 10

// readValue reads a value from a file, without the newline at its end.
func readValue(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxValue+1))
	if err != nil {
		return "", err
	}
	value := strings.TrimRight(string(data), "\r\n")
	switch {
	case len(data) > maxValue:
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxValue)
	case strings.TrimSpace(value) == "":
		return "", fmt.Errorf("%s is empty", path)
	}
	return value, nil
}

func environment(env []string) map[string]string {
	m := map[string]string{}
	for _, kv := range env {
		if key, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(key, "STEM_") {
			m[key] = value
		}
	}
	return m
}

// warnUnknown warns of STEM_* names that the table does not have, with the
// nearest one that it has.
func (l *Loaded) warnUnknown(table []Variable, found map[string]string, where string) {
	names := make([]string, len(table))
	for i := range table {
		names[i] = table[i].Name
	}
	var unknown []string
	for name := range found {
		if strings.HasPrefix(name, "STEM_") && !slices.Contains(names, name) && !slices.Contains(given(), name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		text := fmt.Sprintf("%s%s is no variable of Stem", name, where)
		if n := nearest.Word(name, names); n != "" {
			text += "; the nearest is " + n
		}
		l.Warnings = append(l.Warnings, text)
	}
}
