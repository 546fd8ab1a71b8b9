package httpapi

import (
	"encoding"
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/stemjobs/stem/task"
)

// What requests are decoded with: stricter than encoding/json. A field that is
// not known, one that is there twice, a value of another type and null where
// no null belongs are refused, each with a JSON pointer to it. The text was
// checked to be well-formed before, so that nothing here can run off its end.

// shape is a Go type as the decoder uses it.
type shape struct {
	kind     shapeKind
	typ      reflect.Type
	elem     *shape // of a slice, map or pointer
	fields   []field
	byName   map[string]int
	required uint64
}

type field struct {
	name  string
	index int
	shape *shape
}

type shapeKind uint8

const (
	shapeRaw shapeKind = iota
	shapeText
	shapeString
	shapeBool
	shapeInt
	shapeFloat
	shapeSlice
	shapeMap
	shapePointer
	shapeStruct
)

// shapeOf reads a type once, at start. It panics on types that requests do not
// have, which is a mistake in this package.
func shapeOf(t reflect.Type, known map[reflect.Type]*shape) *shape {
	if s, ok := known[t]; ok {
		return s
	}
	s := &shape{typ: t}
	known[t] = s
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		s.kind = shapeRaw
		return s
	case t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		s.kind = shapeText
		return s
	}
	switch t.Kind() {
	case reflect.String:
		s.kind = shapeString
	case reflect.Bool:
		s.kind = shapeBool
	case reflect.Int, reflect.Int64:
		s.kind = shapeInt
	case reflect.Float64:
		s.kind = shapeFloat
	case reflect.Slice:
		s.kind, s.elem = shapeSlice, shapeOf(t.Elem(), known)
	case reflect.Map:
		s.kind, s.elem = shapeMap, shapeOf(t.Elem(), known)
	case reflect.Pointer:
		s.kind, s.elem = shapePointer, shapeOf(t.Elem(), known)
	case reflect.Struct:
		s.kind = shapeStruct
		s.addFields(known)
	default:
		panic("httpapi: no request has a " + t.String())
	}
	return s
}

func (s *shape) addFields(known map[reflect.Type]*shape) {
	s.byName = map[string]int{}
	for i := range s.typ.NumField() {
		f := s.typ.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		n := len(s.fields)
		s.byName[name] = n
		if alias := f.Tag.Get("alias"); alias != "" {
			s.byName[alias] = n
		}
		if !strings.Contains(opts, "omit") {
			s.required |= 1 << n
		}
		s.fields = append(s.fields, field{name: name, index: i, shape: shapeOf(f.Type, known)})
	}
}

// decoder walks over one well-formed text.
type decoder struct {
	data []byte
	i    int
}

// decode reads data into the value that into points to.
func (s *shape) decode(data []byte, into any) *Problem {
	if err := task.ValidateJSON("body", data); err != nil {
		return problem(malformedJSON, "%v", err)
	}
	d := decoder{data: data}
	d.space()
	return d.value(s, reflect.ValueOf(into).Elem())
}

func (d *decoder) space() {
	for d.i < len(d.data) && d.data[d.i] <= ' ' {
		d.i++
	}
}

// at puts a step before the pointer of a problem.
func at(p *Problem, step string) *Problem {
	if p != nil {
		p.Pointer = "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(step) + p.Pointer
	}
	return p
}

func (d *decoder) value(s *shape, v reflect.Value) *Problem {
	c := d.data[d.i]
	switch s.kind {
	case shapeRaw:
		start := d.i
		d.skip()
		v.SetBytes(d.data[start:d.i:d.i])
		return nil
	case shapePointer:
		v.Set(reflect.New(s.elem.typ))
		return d.value(s.elem, v.Elem())
	case shapeStruct:
		if c != '{' {
			return d.mismatch("an object")
		}
		return d.object(s, v)
	case shapeMap:
		if c != '{' {
			return d.mismatch("an object")
		}
		return d.mapping(s, v)
	case shapeSlice:
		if c != '[' {
			return d.mismatch("an array")
		}
		return d.array(s, v)
	case shapeString, shapeText:
		if c != '"' {
			return d.mismatch("a string")
		}
		return d.text(s, v)
	case shapeBool:
		if c != 't' && c != 'f' {
			return d.mismatch("true or false")
		}
		d.skip()
		v.SetBool(c == 't')
		return nil
	}
	if c != '-' && (c < '0' || c > '9') {
		return d.mismatch("a number")
	}
	return d.number(s, v)
}

func (d *decoder) mismatch(want string) *Problem {
	name := "a number"
	switch d.data[d.i] {
	case '{':
		name = "an object"
	case '[':
		name = "an array"
	case '"':
		name = "a string"
	case 't', 'f':
		name = "a boolean"
	case 'n':
		name = "null"
	}
	return problem(invalidArgument, "want %s, got %s", want, name)
}

func (d *decoder) number(s *shape, v reflect.Value) *Problem {
	start := d.i
	d.skip()
	token := string(d.data[start:d.i])
	if s.kind == shapeInt {
		n, err := strconv.ParseInt(token, 10, 64)
		if err != nil || v.OverflowInt(n) {
			return problem(invalidArgument, "want an integer, got %.40s", token)
		}
		v.SetInt(n)
		return nil
	}
	f, err := strconv.ParseFloat(token, 64)
	if err != nil || math.IsInf(f, 0) {
		return problem(invalidArgument, "want a number within bounds, got %.40s", token)
	}
	v.SetFloat(f)
	return nil
}

func (d *decoder) text(s *shape, v reflect.Value) *Problem {
	text := d.string()
	if s.kind == shapeString {
		v.SetString(text)
		return nil
	}
	u, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	if !ok {
		return problem(internalError, "%s reads no text", s.typ)
	}
	if err := u.UnmarshalText([]byte(text)); err != nil {
		return problem(invalidArgument, "%s", err)
	}
	return nil
}

// string reads a string, or a key.
func (d *decoder) string() string {
	start := d.i
	d.skipString()
	token := d.data[start:d.i]
	inner := token[1 : len(token)-1]
	for _, c := range inner {
		if c == '\\' {
			var s string
			if json.Unmarshal(token, &s) == nil {
				return s
			}
			break
		}
	}
	return string(inner)
}

// next passes over what stands between the members of a container, and says
// whether there is another one.
func (d *decoder) next(end byte) bool {
	d.space()
	if d.data[d.i] == ',' {
		d.i++
		d.space()
	}
	if d.data[d.i] == end {
		d.i++
		return false
	}
	return true
}

// key reads a key and its colon.
func (d *decoder) key() string {
	k := d.string()
	d.space()
	d.i++
	d.space()
	return k
}

func (d *decoder) object(s *shape, v reflect.Value) *Problem {
	var seen uint64
	for d.i++; d.next('}'); {
		k := d.key()
		n, ok := s.byName[k]
		if !ok {
			return at(problem(unknownField, "no field %.80q is known here", k), k)
		}
		if seen&(1<<n) != 0 {
			return at(problem(duplicateField, "the field %q is there twice", k), k)
		}
		seen |= 1 << n
		f := &s.fields[n]
		if p := d.value(f.shape, v.Field(f.index)); p != nil {
			return at(p, k)
		}
	}
	if missing := s.required &^ seen; missing != 0 {
		for n := range s.fields {
			if missing&(1<<n) != 0 {
				return at(problem(invalidArgument, "the field %q is missing", s.fields[n].name), s.fields[n].name)
			}
		}
	}
	return nil
}

func (d *decoder) mapping(s *shape, v reflect.Value) *Problem {
	v.Set(reflect.MakeMap(s.typ))
	for d.i++; d.next('}'); {
		k := d.key()
		key := reflect.ValueOf(k)
		if v.MapIndex(key).IsValid() {
			return at(problem(duplicateField, "the field %.80q is there twice", k), k)
		}
		item := reflect.New(s.elem.typ).Elem()
		if p := d.value(s.elem, item); p != nil {
			return at(p, k)
		}
		v.SetMapIndex(key, item)
	}
	return nil
}

func (d *decoder) array(s *shape, v reflect.Value) *Problem {
	n := 0
	for d.i++; d.next(']'); n++ {
		if n == v.Cap() {
			v.Grow(max(4, n))
		}
		v.SetLen(n + 1)
		item := v.Index(n)
		item.SetZero()
		if p := d.value(s.elem, item); p != nil {
			return at(p, strconv.Itoa(n))
		}
	}
	if n == 0 {
		v.Set(reflect.MakeSlice(s.typ, 0, 0))
	}
	return nil
}

// skip passes over one value.
func (d *decoder) skip() {
	depth := 0
	for {
		switch d.data[d.i] {
		case '"':
			d.skipString()
		case '{', '[':
			depth++
			d.i++
		case '}', ']':
			depth--
			d.i++
		case ',', ':', ' ', '\n', '\t', '\r':
			d.i++
			continue
		default:
			d.skipWord()
		}
		if depth == 0 {
			return
		}
	}
}

func (d *decoder) skipString() {
	for d.i++; d.data[d.i] != '"'; d.i++ {
		if d.data[d.i] == '\\' {
			d.i++
		}
	}
	d.i++
}

// skipWord passes over a number, true, false or null.
func (d *decoder) skipWord() {
	for ; d.i < len(d.data); d.i++ {
		switch d.data[d.i] {
		case ',', ':', ']', '}', ' ', '\n', '\t', '\r':
			return
		}
	}
}
