package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"weft/internal/golden"
)

// Every testdata/*.bad.yaml is refused with exactly the message beside it.
func TestBadInput(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("fixtures: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var doc any
			if err := yaml.Unmarshal(data, &doc); err != nil {
				t.Fatal(err)
			}
			_, err = Decode(doc)
			var faults FieldErrors
			if !errors.As(err, &faults) {
				t.Fatalf("accepted, or not FieldErrors: %v", err)
			}
			var out strings.Builder
			for _, f := range faults {
				fmt.Fprintln(&out, f)
			}
			golden.Equal(t, strings.TrimSuffix(filepath.Base(file), ".yaml")+".golden", out.String())
		})
	}
}

func TestDecodeKeepsEverythingButStatus(t *testing.T) {
	r, err := DecodeJSON([]byte(`{"apiVersion":"weft/v1","kind":"Tap","metadata":{"name":"t","labels":{"a":"b"},"resourceVersion":"7","generation":2,"creationTimestamp":"2026-11-22T14:00:00Z"},
		"spec":{"from":{"selector":"app=web"},"to":{"group":"tools"},"snaplen":128,"paused":true,"deliver":{"device":"mon0"}},"status":{"state":"Active","anything":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	tap := r.(*Tap)
	out, _ := json.Marshal(tap)
	want := `{"apiVersion":"weft/v1","kind":"Tap","metadata":{"name":"t","labels":{"a":"b"},"generation":2,"resourceVersion":"7","creationTimestamp":"2026-11-22T14:00:00Z"},"spec":{"from":{"selector":"app=web"},"to":{"group":"tools"},"snaplen":128,"deliver":{"device":"mon0"},"paused":true}}`
	if string(out) != want {
		t.Errorf("got  %s\nwant %s", out, want)
	}
}

func TestEveryKindCanBeNamedAndMade(t *testing.T) {
	for _, info := range Kinds {
		r := info.New()
		if r.GetKind() != info.Kind || reflect.TypeOf(r).Elem().Name() != string(info.Kind) {
			t.Errorf("%s makes %T of kind %s", info.Kind, r, r.GetKind())
		}
		for _, name := range []string{string(info.Kind), info.Plural, info.Short, strings.ToLower(string(info.Kind))} {
			if got, err := FindKind(name); err != nil || got.Kind != info.Kind {
				t.Errorf("%q finds %q, %v, want %s", name, got.Kind, err, info.Kind)
			}
		}
	}
	if _, err := FindKind("tapz"); err == nil || !strings.Contains(err.Error(), `(did you mean "taps"?)`) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecodeJSON(f *testing.F) {
	f.Add(`{"apiVersion":"weft/v1","kind":"Tap","metadata":{"name":"t"},"spec":{"from":{"selector":{"matchLabels":{"a":"b"}}}}}`)
	f.Add(`{"apiVersion":"weft/v1","kind":"Group","metadata":{"name":"t"},"spec":{"groups":["a",1,null]}}`)
	f.Add(`{"apiVersion":"weft/v1","kind":"JoinToken","metadata":{"name":3},"spec":{"uses":1e99,"ttl":"1h"}}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := DecodeJSON([]byte(text))
		if err != nil {
			return
		}
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeJSON(data)
		if err != nil {
			t.Fatalf("%s reads back with %v", data, err)
		}
		if more, _ := json.Marshal(again); string(more) != string(data) {
			t.Errorf("%s reads back as %s", data, more)
		}
	})
}
