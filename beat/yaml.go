package beat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file. The parser takes quadratic time for some input and recurses
// as deep as its input is nested, so both are bounded before it runs.
const (
	maxFileSize = 1 << 20
	maxLine     = 64 << 10 // bytes
	maxNesting  = 32
	maxIndent   = 64
	maxItems    = 50_000 // of lists, all together
)

// FileError says what is wrong with a file of schedules, and where. It is
// stem.ErrInvalid.
type FileError struct {
	Path string
	Line int // from 1; 0: the file as a whole
	Err  error
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Path, e.Err)
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Err)
}

// Unwrap returns what is wrong.
func (e *FileError) Unwrap() error { return e.Err }

func line(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

// at is an error of one line.
type atLine struct {
	line int
	err  error
}

func (e *atLine) Error() string { return e.err.Error() }
func (e *atLine) Unwrap() error { return e.err }

func wrongAt(line int, format string, args ...any) error {
	return &atLine{line, wrong("", format, args...)}
}

// document parses a text that holds one YAML document, or JSON.
func document(data []byte) (ast.Node, error) {
	if len(data) > maxFileSize {
		return nil, wrongAt(0, "it has more than %d KiB: give it in parts", maxFileSize>>10)
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return nil, wrongAt(0, "it is no UTF-8 text")
	}
	n := 1
	for text := range bytes.Lines(data) {
		if len(text) > maxLine {
			return nil, wrongAt(n, "the line has more than %d KiB", maxLine>>10)
		}
		n++
	}
	if err := checkTokens(lexer.Tokenize(string(data))); err != nil {
		return nil, err
	}
	file, err := parse(data)
	if err != nil {
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) && syntax.Token != nil && syntax.Token.Position != nil {
			return nil, wrongAt(syntax.Token.Position.Line, "not YAML: %s", syntax.Message)
		}
		return nil, wrongAt(0, "not YAML: %.200s", err)
	}
	switch {
	case len(file.Docs) > 1:
		return nil, wrongAt(line(file.Docs[1].Body), "a second document: want one")
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		return nil, wrongAt(0, "it is empty: want schedules:")
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
// kind.
func checkTokens(tokens token.Tokens) error {
	flow, steps, at, items := 0, 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != at {
			at, steps = t.Position.Line, 0
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType:
			return wrongAt(at, "%.40q: anchors, aliases, tags and directives are not used here", t.Value)
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType:
			steps++
			items++
		case token.MappingKeyType:
			steps++
		case token.MappingValueType:
			if flow == 0 {
				steps++
			}
		}
		if flow+steps > maxNesting || t.Position.IndentNum > maxIndent {
			return wrongAt(at, "nested too deep")
		}
		if items > maxItems {
			return wrongAt(at, "more than %d items: give it in parts", maxItems)
		}
	}
	return nil
}

// lines has the line of each field of an entry, by its path.
type lines map[string]int

// of is the line of a field, or of the nearest one around it.
func (l lines) of(path string) int {
	for {
		if n, ok := l[path]; ok {
			return n
		}
		i := bytes.LastIndexByte([]byte(path), '.')
		if i < 0 {
			return l[""]
		}
		path = path[:i]
	}
}

// toJSON writes a node as JSON, and where its fields are.
func toJSON(out *bytes.Buffer, n ast.Node, path string, where lines) error {
	switch n := n.(type) {
	case *ast.MappingNode:
		return mappingJSON(out, n.Values, path, where)
	case *ast.MappingValueNode:
		return mappingJSON(out, []*ast.MappingValueNode{n}, path, where)
	case *ast.SequenceNode:
		out.WriteByte('[')
		for i, v := range n.Values {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := toJSON(out, v, path+"."+strconv.Itoa(i), where); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	}
	return scalarJSON(out, n)
}

func mappingJSON(out *bytes.Buffer, values []*ast.MappingValueNode, path string, where lines) error {
	out.WriteByte('{')
	for i, v := range values {
		key, ok := keyText(v.Key)
		if !ok {
			return wrongAt(line(v.Key), "a key must be text")
		}
		if i > 0 {
			out.WriteByte(',')
		}
		raw, err := marshal(key)
		if err != nil {
			return err
		}
		out.Write(raw)
		out.WriteByte(':')
		inner := key
		if path != "" {
			inner = path + "." + key
		}
		where[inner] = line(v.Key)
		if err := toJSON(out, v.Value, inner, where); err != nil {
			return err
		}
	}
	out.WriteByte('}')
	return nil
}

func keyText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func scalarJSON(out *bytes.Buffer, n ast.Node) error {
	var v any
	switch n := n.(type) {
	case nil, *ast.NullNode:
	case *ast.StringNode:
		v = n.Value
	case *ast.LiteralNode:
		v = n.Value.Value
	case *ast.BoolNode:
		v = n.Value
	case *ast.IntegerNode:
		v = number(n.GetToken().Value, n.Value)
	case *ast.FloatNode:
		v = number(n.GetToken().Value, n.Value)
	default:
		return wrongAt(line(n), "%.40q: want text, a number, true, false, a list or a mapping", n.String())
	}
	raw, err := marshal(v)
	if err != nil {
		return wrongAt(line(n), "%s", err)
	}
	out.Write(raw)
	return nil
}

// number keeps a number's own digits where JSON has the same form, so that none
// is lost.
func number(text string, value any) any {
	if json.Valid([]byte(text)) {
		return json.Number(text)
	}
	return value
}
