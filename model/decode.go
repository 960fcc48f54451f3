package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// DecodeJSON reads one resource from JSON, strictly; see Decode.
func DecodeJSON(data []byte) (Resource, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, FieldErrors{{Message: "is no JSON: " + err.Error()}}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, FieldErrors{{Message: "goes on after the first JSON value; send one resource at a time"}}
	}
	return Decode(doc)
}

// Decode makes a resource of a document as a JSON or YAML reader leaves it
// (map[string]any, []any, string, bool, nil and numbers), strictly: the error
// is a FieldErrors with every unknown field, every value of a wrong type and
// everything Validate finds. Status is skipped, as nobody may write it, so that
// what was read can be edited and written back.
func Decode(doc any) (Resource, error) {
	top, ok := doc.(map[string]any)
	if !ok {
		return nil, FieldErrors{{Message: fmt.Sprintf("is %s; want a resource: apiVersion, kind, metadata, spec", describe(doc))}}
	}
	info, err := documentKind(top)
	if err != nil {
		return nil, err
	}
	return decodeAs(top, info)
}

// decodeAs reads a document whose kind is known.
func decodeAs(top map[string]any, info KindInfo) (Resource, error) {
	var e FieldErrors
	top = maps.Clone(top)
	delete(top, "status")
	r := info.New()
	clean := checkValue(&e, "", top, reflect.TypeOf(r).Elem())
	data, err := json.Marshal(clean)
	if err != nil {
		return nil, append(e, FieldError{Message: "cannot be read: " + err.Error()})
	}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, append(e, FieldError{Message: "cannot be read: " + err.Error()})
	}
	var invalid FieldErrors
	if err := r.Validate(); errors.As(err, &invalid) {
		unread := slices.Clone(e)
		for _, f := range invalid {
			// What could not be read is missing, and once said is enough.
			if !slices.ContainsFunc(unread, func(d FieldError) bool { return within(d.Field, f.Field) || within(f.Field, d.Field) }) {
				e = append(e, f)
			}
		}
	}
	return r, e.OrNil()
}

// within says whether field is outer or a part of it.
func within(field, outer string) bool {
	rest, ok := strings.CutPrefix(field, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func documentKind(top map[string]any) (KindInfo, error) {
	var e FieldErrors
	if v, ok := top["apiVersion"]; !ok {
		e = append(e, FieldError{"apiVersion", "is missing; write apiVersion: " + APIVersion})
	} else if v != APIVersion {
		e = append(e, FieldError{"apiVersion", fmt.Sprintf("%v is not known; this controller speaks %s", v, APIVersion)})
	}
	names := make([]string, len(Kinds))
	for i, info := range Kinds {
		names[i] = string(info.Kind)
	}
	var found KindInfo
	name, _ := top["kind"].(string)
	for _, info := range Kinds {
		if name == string(info.Kind) {
			found = info
		}
	}
	switch {
	case top["kind"] == nil:
		e = append(e, FieldError{"kind", "is missing; the kinds are " + strings.Join(names, ", ")})
	case found.Kind == "":
		e = append(e, FieldError{"kind", fmt.Sprintf("%v is not known%s; the kinds are %s", top["kind"], suggest(name, names), strings.Join(names, ", "))})
	}
	return found, e.OrNil()
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// checkValue compares a value with the type it is for, adds what is wrong to e,
// and returns the part that is right (nil where nothing is).
func checkValue(e *FieldErrors, path string, v any, t reflect.Type) any {
	if v == nil {
		return nil // as if it were not there
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		data, err := json.Marshal(v)
		if err == nil {
			err = reflect.New(t).Interface().(json.Unmarshaler).UnmarshalJSON(data)
		}
		if err != nil {
			e.add(path, err)
			return nil
		}
		return v
	}
	wrong := func(want string) any {
		e.add(path, fmt.Errorf("is %s; want %s", describe(v), want))
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		m, ok := v.(map[string]any)
		if !ok {
			return wrong("fields: " + strings.Join(fieldNames(t), ", "))
		}
		return checkStruct(e, path, m, t)
	case reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			return wrong("key: value pairs")
		}
		out := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if m[k] == nil && t.Elem().Kind() == reflect.String {
				m[k] = "" // "key:" in YAML
			}
			if c := checkValue(e, join(path, k), m[k], t.Elem()); c != nil {
				out[k] = c
			}
		}
		return out
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			return wrong("a list")
		}
		out := make([]any, 0, len(list))
		for i, item := range list {
			if c := checkValue(e, fmt.Sprintf("%s[%d]", path, i), item, t.Elem()); c != nil {
				out = append(out, c)
			}
		}
		return out
	case reflect.String:
		if s, ok := v.(string); ok {
			return s
		}
		if isScalar(v) {
			return wrong(fmt.Sprintf("text; put it in quotes: \"%v\"", v))
		}
		return wrong("text")
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			return b
		}
		return wrong("true or false")
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return checkInteger(v, t, wrong)
	case reflect.Float64:
		switch v.(type) {
		case json.Number, int, int64, uint64, float64:
			if f, err := strconv.ParseFloat(fmt.Sprint(v), 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
				return v
			}
		}
		return wrong("a number")
	}
	return wrong(t.String()) // no other type is in a spec
}

func checkInteger(v any, t reflect.Type, wrong func(string) any) any {
	switch v.(type) {
	case json.Number, int, int64, uint64, float64:
	default:
		return wrong("a whole number")
	}
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, reflect.New(t).Interface())
	}
	if err != nil {
		return wrong("a whole number")
	}
	return v
}

func checkStruct(e *FieldErrors, path string, m map[string]any, t reflect.Type) any {
	fields := map[string]reflect.Type{}
	collectFields(t, fields)
	out := map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		ft, ok := fields[k]
		if !ok {
			names := fieldNames(t)
			e.add(join(path, k), fmt.Errorf("is not known%s; the fields here are %s", suggest(k, names), strings.Join(names, ", ")))
			continue
		}
		if c := checkValue(e, join(path, k), m[k], ft); c != nil {
			out[k] = c
		}
	}
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func collectFields(t reflect.Type, into map[string]reflect.Type) {
	for f := range t.Fields() {
		if f.Anonymous {
			collectFields(f.Type, into)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		into[name] = f.Type
	}
}

// fieldNames lists the fields of a struct in their order, without status.
func fieldNames(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		if f.Anonymous {
			names = append(names, fieldNames(f.Type)...)
		} else if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "status" {
			names = append(names, name)
		}
	}
	return names
}

func isScalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "empty"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return fmt.Sprintf("the text %q", v)
	case bool:
		return fmt.Sprintf("the truth value %t", v)
	}
	return fmt.Sprintf("the number %v", v)
}
