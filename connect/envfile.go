package connect

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// readEnvFile reads lines of KEY=VALUE. Empty lines and those that begin with
// # do not count, "export " in front of a key is allowed, and a value may stand
// in single quotes, as it is, or in double quotes, with Go's escapes. Nothing
// is expanded.
func readEnvFile(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	vars := map[string]string{}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" || strings.ContainsAny(key, " \t'\"") {
			return nil, fmt.Errorf("--env-file %s, line %d: want KEY=VALUE", path, i+1)
		}
		value, ok = unquote(strings.TrimSpace(value))
		if !ok {
			return nil, fmt.Errorf("--env-file %s, line %d: the value of %s has a quote that is not closed", path, i+1, key)
		}
		vars[key] = value
	}
	return vars, nil
}

func unquote(v string) (string, bool) {
	if v == "" {
		return v, true
	}
	switch v[0] {
	case '\'':
		end := strings.IndexByte(v[1:], '\'')
		if end < 0 {
			return "", false
		}
		return v[1 : 1+end], onlyComment(v[2+end:])
	case '"':
		quoted, err := strconv.QuotedPrefix(v)
		if err != nil {
			return "", false
		}
		plain, err := strconv.Unquote(quoted)
		return plain, err == nil && onlyComment(v[len(quoted):])
	}
	if i := strings.Index(v, " #"); i >= 0 {
		v = strings.TrimSpace(v[:i])
	}
	return v, true
}

func onlyComment(rest string) bool {
	rest = strings.TrimSpace(rest)
	return rest == "" || rest[0] == '#'
}
