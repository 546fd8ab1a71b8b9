package httpapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/task"
)

// node is a part of the OpenAPI document.
type node = map[string]any

// everywhere are the problems that any route may answer with.
func everywhere(rt *route) []string {
	all := []string{invalidArgument, unknownParameter, unauthenticated, forbidden, hostRefused, internalError}
	if rt.stream {
		all = append(all, methodNotAllowed)
	}
	if rt.method != "GET" {
		all = append(all, crossOrigin)
	}
	if rt.body != nil {
		all = append(all, malformedJSON, unknownField, duplicateField, tooLarge, mediaType, requestTimeout)
	}
	return append(all, rt.problems...)
}

// document builds the OpenAPI document of the routes.
func document(table []route) ([]byte, error) {
	b := &schemas{named: node{}, types: map[reflect.Type]string{}}
	paths := node{}
	for i := range table {
		rt := &table[i]
		item, ok := paths[rt.path].(node)
		if !ok {
			item = node{}
			paths[rt.path] = item
		}
		item[strings.ToLower(rt.method)] = b.operation(rt)
	}
	b.of(reflect.TypeFor[Problem]())
	doc := node{
		"openapi": "3.1.0",
		"info": node{
			"title": "Stem", "version": "1",
			"summary": "Background jobs: enqueue, follow, operate, and execute in any language.",
			"license": node{"name": "Apache 2.0", "identifier": "Apache-2.0"},
		},
		"servers":  []node{{"url": "/"}},
		"security": []node{{"token": []string{}}},
		"paths":    paths,
		"components": node{
			"schemas": b.named,
			"securitySchemes": node{"token": node{
				"type": "http", "scheme": "bearer",
				"description": "A token of the server. A server without tokens answers on loopback only, and wants none.",
			}},
		},
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("build the OpenAPI document: %w", err)
	}
	return append(raw, '\n'), nil
}

func (b *schemas) operation(rt *route) node {
	op := node{"summary": rt.summary, "operationId": operationID(rt)}
	if rt.role != "" {
		op["description"] = "Role: " + string(rt.role) + " (or operate)."
		op["x-role"] = string(rt.role)
	}
	var params []node
	for _, p := range rt.params {
		kind := p.kind
		if kind == "" {
			kind = "string"
		}
		params = append(params, node{
			"name": p.name, "in": p.in, "description": p.doc, "required": p.in == "path", "schema": node{"type": kind},
		})
	}
	if params != nil {
		op["parameters"] = params
	}
	if rt.body != nil {
		op["requestBody"] = node{"required": true, "content": node{"application/json": node{"schema": b.of(rt.body)}}}
	}
	op["responses"] = b.responses(rt)
	return op
}

func (b *schemas) responses(rt *route) node {
	status := rt.status
	if status == 0 {
		status = 200
	}
	media := "application/json"
	if rt.stream {
		media = "text/event-stream"
	}
	content := node{media: node{"schema": b.of(rt.answer)}}
	if rt.stream {
		content = node{media: node{"schema": node{
			"type": "string", "description": "Events named status and end, each with the task's record as its data.",
		}}}
	}
	out := node{strconv.Itoa(status): node{"description": "Done.", "content": content}}
	for code, words := range rt.also {
		answer := node{"description": words}
		if code != 204 {
			answer["content"] = content
		}
		out[strconv.Itoa(code)] = answer
	}
	byStatus := map[int][]string{}
	for _, slug := range everywhere(rt) {
		k := kindOf(slug)
		byStatus[k.status] = append(byStatus[k.status], problemPath+slug)
	}
	for code, types := range byStatus {
		slices.Sort(types)
		out[strconv.Itoa(code)] = node{
			"description": strings.Join(slices.Compact(types), ", "),
			"content":     node{"application/problem+json": node{"schema": b.of(reflect.TypeFor[Problem]())}},
		}
	}
	return out
}

// operationID is a name for generated clients: get_v1_tasks_id.
func operationID(rt *route) string {
	return strings.ToLower(rt.method) + strings.NewReplacer("/", "_", "{", "", "}", "", ".", "_").Replace(rt.path)
}

// schemas makes JSON schemas of Go types; structs get names.
type schemas struct {
	named node
	types map[reflect.Type]string
}

// of is the schema of a type, or a reference to it.
func (b *schemas) of(t reflect.Type) node {
	switch t {
	case reflect.TypeFor[json.RawMessage]():
		return node{"description": "Any JSON value."}
	case reflect.TypeFor[time.Time]():
		return node{"type": "string", "format": "date-time"}
	case reflect.TypeFor[Duration]():
		return node{"type": "string", "examples": []string{"30s", "1h30m"}}
	case reflect.TypeFor[Retention]():
		return node{"type": "string", "examples": []string{"24h", "forever"}}
	case reflect.TypeFor[task.State]():
		return node{"type": "string", "enum": task.States()}
	case reflect.TypeFor[[]byte]():
		return node{"type": "string", "contentEncoding": "base64"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return node{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return node{"type": "integer"}
	case reflect.Float64:
		return node{"type": "number"}
	case reflect.Slice:
		return node{"type": "array", "items": b.of(t.Elem())}
	case reflect.Map:
		return node{"type": "object", "additionalProperties": b.of(t.Elem())}
	case reflect.Pointer:
		return b.of(t.Elem())
	case reflect.Struct:
		return node{"$ref": "#/components/schemas/" + b.name(t)}
	}
	return node{"type": "string"}
}

// name is a struct's name in the document, which gets its schema.
func (b *schemas) name(t reflect.Type) string {
	if name, ok := b.types[t]; ok {
		return name
	}
	name := t.Name()
	if t.PkgPath() == reflect.TypeFor[task.Status]().PkgPath() && name != "Progress" {
		name = "Task" + name // TaskStatus, TaskError
	}
	b.types[t] = name
	properties, required := node{}, []string{}
	for i := range t.NumField() {
		f := t.Field(i)
		key, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if key == "" || key == "-" {
			continue
		}
		schema := b.of(f.Type)
		if doc := f.Tag.Get("doc"); doc != "" {
			schema["description"] = doc
		}
		if words := f.Tag.Get("enum"); words != "" {
			schema["enum"] = strings.Split(words, ",")
		}
		properties[key] = schema
		if !strings.Contains(opts, "omit") {
			required = append(required, key)
		}
	}
	b.named[name] = node{
		"type": "object", "properties": properties, "required": required, "additionalProperties": false,
	}
	return name
}
