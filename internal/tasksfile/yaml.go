package tasksfile

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/stemjobs/stem/internal/exectask"
	"github.com/stemjobs/stem/internal/httptask"
	"github.com/stemjobs/stem/internal/nearest"
	"github.com/stemjobs/stem/task"
)

// Bounds of a tasks file. The parser takes quadratic time for some input and
// recurses as deep as its input is nested, so both are bounded before it runs.
const (
	maxFileSize = 128 << 10
	maxNesting  = 32
	maxIndent   = 64
)

// FileError says what is wrong with a tasks file, and where. It wraps
// task.ErrInvalid.
type FileError struct {
	Path   string
	Line   int // from 1; 0: the file as a whole
	Reason string
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Reason)
}

// Unwrap makes errors.Is(err, task.ErrInvalid) true.
func (e *FileError) Unwrap() error { return task.ErrInvalid }

// reader reads nodes of one file, and knows its name for its errors.
type reader struct {
	path    string
	pool    *httptask.Pool    // of the file's HTTP tasks
	running *exectask.Running // of its commands
}

func (r *reader) fail(line int, format string, args ...any) error {
	return &FileError{Path: r.path, Line: line, Reason: fmt.Sprintf(format, args...)}
}

func line(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

// document parses a file that holds one YAML document.
func (r *reader) document(data []byte) (ast.Node, error) {
	if len(data) > maxFileSize {
		return nil, r.fail(0, "it has more than %d KiB", maxFileSize>>10)
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil, r.fail(0, "it is no UTF-8 text")
	}
	if err := r.checkTokens(lexer.Tokenize(string(data))); err != nil {
		return nil, err
	}
	file, err := parse(data)
	if err != nil {
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) && syntax.Token != nil && syntax.Token.Position != nil {
			return nil, r.fail(syntax.Token.Position.Line, "not YAML: %s", syntax.Message)
		}
		return nil, r.fail(0, "not YAML: %.200s", err)
	}
	switch {
	case len(file.Docs) > 1:
		return nil, r.fail(line(file.Docs[1].Body), "a second document; want one")
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		return nil, r.fail(0, "it is empty: want tasks:")
	}
	return file.Docs[0].Body, nil
}

// parse contains the parser's panics, which broken input can cause.
func parse(data []byte) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			file, err = nil, fmt.Errorf("the parser gave up: %v", p)
		}
	}()
	return parser.ParseBytes(data, 0)
}

// checkTokens refuses what could blow up: deep nesting, and references of any
// kind, for which a tasks file has no use.
func (r *reader) checkTokens(tokens token.Tokens) error {
	flow, steps, at := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != at {
			at, steps = t.Position.Line, 0
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType:
			return r.fail(at, "%.40q: anchors, aliases, tags and directives are not used here", t.Value)
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			steps++
		case token.MappingValueType:
			if flow == 0 {
				steps++
			}
		}
		if flow+steps > maxNesting || t.Position.IndentNum > maxIndent {
			return r.fail(at, "nested too deep")
		}
	}
	return nil
}

// entry is one key of a mapping with its value.
type entry struct {
	key   string
	line  int
	value ast.Node
}

// mapping reads a mapping with the keys that known lists, or any when it is
// nil. what says whose keys they are.
func (r *reader) mapping(n ast.Node, what string, known ...string) ([]entry, error) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		return nil, r.fail(line(n), "%s: want a mapping of keys to values", what)
	}
	entries := make([]entry, 0, len(values))
	for _, v := range values {
		key, err := r.text(v.Key, "a key of "+what)
		if err != nil {
			return nil, err
		}
		if known != nil && !slices.Contains(known, key) {
			hint := ""
			if near := nearest.Word(key, known); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			return nil, r.fail(line(v.Key), "unknown key %.60q in %s%s (known: %s)", key, what, hint, strings.Join(known, ", "))
		}
		entries = append(entries, entry{key: key, line: line(v.Key), value: v.Value})
	}
	return entries, nil
}

// text reads a string. Numbers and booleans stand for their own text, so that
// nothing needs quotes that would not need them in a shell.
func (r *reader) text(n ast.Node, what string) (string, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return r.noZero(n, n.Value, what)
	case *ast.LiteralNode:
		return r.noZero(n, n.Value.Value, what)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	default:
		return "", r.fail(line(n), "%s: want text", what)
	}
}

func (r *reader) noZero(n ast.Node, s, what string) (string, error) {
	if strings.ContainsRune(s, 0) {
		return "", r.fail(line(n), "%s: it has a zero byte", what)
	}
	return s, nil
}

func (r *reader) list(n ast.Node, what string) ([]ast.Node, error) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		return nil, r.fail(line(n), "%s: want a list", what)
	}
	return s.Values, nil
}

func (r *reader) duration(n ast.Node, what string) (time.Duration, error) {
	s, err := r.text(n, what)
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Millisecond {
		return 0, r.fail(line(n), "%s: %.40q: want a duration of a millisecond or more, like 30s", what, s)
	}
	return d, nil
}

func (r *reader) integer(n ast.Node, what string, low, high int) (int, error) {
	if i, ok := n.(*ast.IntegerNode); ok {
		if v, err := strconv.Atoi(i.GetToken().Value); err == nil && v >= low && v <= high {
			return v, nil
		}
	}
	return 0, r.fail(line(n), "%s: %.40q: want a whole number from %d to %d", what, n.String(), low, high)
}

func (r *reader) number(n ast.Node, what string, low, high float64) (float64, error) {
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		if v, err := strconv.ParseFloat(n.GetToken().Value, 64); err == nil && !math.IsNaN(v) && v >= low && v <= high {
			return v, nil
		}
	}
	return 0, r.fail(line(n), "%s: %.40q: want a number from %v to %v", what, n.String(), low, high)
}

func (r *reader) boolean(n ast.Node, what string) (bool, error) {
	if b, ok := n.(*ast.BoolNode); ok {
		return b.Value, nil
	}
	return false, r.fail(line(n), "%s: %.40q: want true or false", what, n.String())
}
