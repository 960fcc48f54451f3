package model

import (
	"fmt"
	"reflect"
	"strings"
)

// FieldDoc describes one field of a kind: its path ("spec.from.selector"), its
// type in words, and what it means. Type names the Go type it is declared in.
type FieldDoc struct {
	Path     string
	Type     string
	Doc      string
	Required bool
	Depth    int
}

// Fields lists every field of a kind in the order of its declaration, metadata
// left out, as it is the same for all.
func Fields(info KindInfo) []FieldDoc {
	var out []FieldDoc
	t := reflect.TypeOf(info.New()).Elem()
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "spec" || name == "status" {
			out = append(out, FieldDoc{Path: name, Type: "object", Doc: docs[f.Type.Name()]})
			walkFields(f.Type, name, 1, &out)
		}
	}
	return out
}

// MetadataFields lists the fields of metadata.
func MetadataFields() []FieldDoc {
	var out []FieldDoc
	walkFields(reflect.TypeFor[Metadata](), "metadata", 1, &out)
	return out
}

// KindDoc says what a kind is.
func KindDoc(info KindInfo) string { return docs[string(info.Kind)] }

// TypeDoc and StructFieldDoc return what the declaration of a Go type, and of a
// field of it by its JSON name, say.
func TypeDoc(name string) string                   { return docs[name] }
func StructFieldDoc(typeName, field string) string { return docs[typeName+"."+field] }

func walkFields(t reflect.Type, path string, depth int, out *[]FieldDoc) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		d := FieldDoc{Path: path + "." + name, Type: typeWords(f.Type), Doc: docs[t.Name()+"."+name], Depth: depth,
			Required: !strings.Contains(options, "omit")}
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice {
				d.Path += "[]"
			}
			inner = inner.Elem()
		}
		if d.Doc == "" && inner.Kind() == reflect.Struct {
			d.Doc = docs[inner.Name()]
		}
		*out = append(*out, d)
		if inner.Kind() == reflect.Struct && inner.PkgPath() == t.PkgPath() && inner.Name() != "Selector" && inner.Name() != "Count" {
			walkFields(inner, d.Path, depth+1, out)
		}
	}
}

func typeWords(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return typeWords(t.Elem())
	case t == reflect.TypeFor[Selector]():
		return "selector"
	case t == reflect.TypeFor[Count]():
		return "packets, bytes"
	case t.String() == "time.Time":
		return "time"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list of " + typeWords(t.Elem())
	case reflect.Map:
		return fmt.Sprintf("map of %s to %s", typeWords(t.Key()), typeWords(t.Elem()))
	}
	return "object"
}
