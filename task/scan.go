package task

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// The scanner checks JSON (RFC 8259) without building values, and without
// recursion: what it is given may come from anyone. Its functions take the
// position where something begins and return the one after its end. They
// expect valid UTF-8, which their callers check once for the whole text.

// scanError says where a text stops being JSON, and why.
type scanError struct {
	at     int // byte, from 0
	reason string
}

func (e *scanError) Error() string { return fmt.Sprintf("%s at byte %d", e.reason, e.at) }

const (
	tooDeep   = "nested deeper than 1000" // MaxDepth
	truncated = "the text ends too early"
)

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// nesting remembers which of the open containers are objects.
type nesting struct {
	depth   int
	objects [MaxDepth/64 + 1]uint64
}

func (n *nesting) open(object bool) bool {
	if n.depth == MaxDepth {
		return false
	}
	word, bit := n.depth/64, uint64(1)<<(n.depth%64)
	n.objects[word] &^= bit
	if object {
		n.objects[word] |= bit
	}
	n.depth++
	return true
}

func (n *nesting) inObject() bool {
	return n.objects[(n.depth-1)/64]>>((n.depth-1)%64)&1 == 1
}

// scanValue passes over one value.
func scanValue(data []byte, i int) (int, error) {
	i = skipSpace(data, i)
	if i < len(data) && data[i] != '{' && data[i] != '[' {
		return scanScalar(data, i)
	}
	var n nesting
	for {
		i = skipSpace(data, i)
		var err error
		switch {
		case i == len(data):
			return i, &scanError{i, truncated}
		case data[i] == '{' || data[i] == '[':
			var empty bool
			if i, empty, err = scanOpen(data, i, &n); err == nil && !empty {
				continue
			}
		default:
			i, err = scanScalar(data, i)
		}
		if err == nil {
			i, err = scanAfter(data, i, &n)
		}
		if err != nil || n.depth == 0 {
			return i, err
		}
	}
}

// scanOpen opens a container. Unless it is empty, and closed again, a value
// follows: in an object, the one of its first key.
func scanOpen(data []byte, i int, n *nesting) (next int, empty bool, err error) {
	object := data[i] == '{'
	if !n.open(object) {
		return i, false, &scanError{i, tooDeep}
	}
	i = skipSpace(data, i+1)
	switch {
	case i == len(data):
		return i, false, &scanError{i, truncated}
	case object && data[i] == '}' || !object && data[i] == ']':
		n.depth--
		return i + 1, true, nil
	case object:
		_, i, err = scanKey(data, i)
	}
	return i, false, err
}

// scanAfter passes over what follows a value: the ends of containers, and a
// comma with, in an object, the next key.
func scanAfter(data []byte, i int, n *nesting) (int, error) {
	for n.depth > 0 {
		i = skipSpace(data, i)
		object := n.inObject()
		switch {
		case i == len(data):
			return i, &scanError{i, truncated}
		case object && data[i] == '}' || !object && data[i] == ']':
			n.depth--
			i++
		case data[i] != ',':
			return i, &scanError{i, "want a comma or the end of the " + container(object)}
		case object:
			_, i, err := scanKey(data, skipSpace(data, i+1))
			return i, err
		default:
			return i + 1, nil
		}
	}
	return i, nil
}

func container(object bool) string {
	if object {
		return "object"
	}
	return "array"
}

// scanKey passes over a key and its colon. end is the key's own.
func scanKey(data []byte, i int) (end, next int, err error) {
	if i == len(data) || data[i] != '"' {
		return i, i, &scanError{i, "want a key in double quotes"}
	}
	if end, err = scanString(data, i); err != nil {
		return end, end, err
	}
	next = skipSpace(data, end)
	if next == len(data) || data[next] != ':' {
		return end, next, &scanError{next, "want a colon after the key"}
	}
	return end, next + 1, nil
}

func scanScalar(data []byte, i int) (int, error) {
	switch c := data[i]; {
	case c == '"':
		return scanString(data, i)
	case c == '-' || c >= '0' && c <= '9':
		return scanNumber(data, i)
	case c == 't':
		return scanLiteral(data, i, "true")
	case c == 'f':
		return scanLiteral(data, i, "false")
	case c == 'n':
		return scanLiteral(data, i, "null")
	}
	return i, &scanError{i, "want a JSON value"}
}

func scanLiteral(data []byte, i int, word string) (int, error) {
	if len(data)-i < len(word) || string(data[i:i+len(word)]) != word {
		return i, &scanError{i, "want a JSON value"}
	}
	return i + len(word), nil
}

func scanString(data []byte, i int) (int, error) {
	for i = skipPlain(data, i+1); i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			return i + 1, nil
		case c < ' ':
			return i, &scanError{i, "a control character in a string"}
		case c == '\\':
			n := escapeLen(data[i:])
			if n == 0 {
				return i, &scanError{i, "an unknown escape in a string"}
			}
			i = skipPlain(data, i+n) - 1
		}
	}
	return i, &scanError{i, truncated}
}

// skipPlain passes over what means itself in a string, eight bytes at a time, and
// stops where one of the next eight may not.
func skipPlain(data []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(data)-i >= 8 {
		w := binary.LittleEndian.Uint64(data[i:])
		quote, backslash := w^('"'*ones), w^('\\'*ones)
		// The high bit of a byte is set where it was below ' ', or is zero after the ^.
		if ((w-' '*ones)&^w|(quote-ones)&^quote|(backslash-ones)&^backslash)&highs != 0 {
			break
		}
		i += 8
	}
	return i
}

// escapeLen is the length of the escape that s begins with, or 0.
func escapeLen(s []byte) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(s) >= 6 && hex4(s[2:6]) >= 0 {
			return 6
		}
	}
	return 0
}

// hex4 is the number that four hexadecimal digits stand for, or -1.
func hex4(s []byte) rune {
	var r rune
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return -1
		}
	}
	return r
}

func digits(data []byte, i int) int {
	for i < len(data) && data[i] >= '0' && data[i] <= '9' {
		i++
	}
	return i
}

func scanNumber(data []byte, i int) (int, error) {
	if data[i] == '-' {
		i++
	}
	end := digits(data, i)
	if end == i || end-i > 1 && data[i] == '0' {
		return i, &scanError{i, "a malformed number"}
	}
	if i = end; i < len(data) && data[i] == '.' {
		if end = digits(data, i+1); end == i+1 {
			return i, &scanError{i, "a malformed number"}
		}
		i = end
	}
	if i < len(data) && (data[i] == 'e' || data[i] == 'E') {
		i++
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		if end = digits(data, i); end == i {
			return i, &scanError{i, "a malformed number"}
		}
		i = end
	}
	return i, nil
}

// unescape returns what a scanned string without its quotes stands for. ok is
// false when half of a surrogate pair stands alone.
func unescape(s []byte) (text string, ok bool) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(s[i+1 : i+5])
			i += 4
			if utf16.IsSurrogate(r) {
				if len(s)-i < 7 || s[i+1] != '\\' || s[i+2] != 'u' {
					return "", false
				}
				if r = utf16.DecodeRune(r, hex4(s[i+3:i+7])); r == utf8.RuneError {
					return "", false
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, s[i])
		}
	}
	return string(out), true
}
