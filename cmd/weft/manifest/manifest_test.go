package manifest

import (
	"fmt"
	"strings"
	"testing"
)

func TestLocate(t *testing.T) {
	text := `apiVersion: weft/v1
kind: Group
metadata:
  name: g
  labels:
    a.b/c: "bad value"
    "quoted.key": "also bad"
spec:
  selector: app=web
  groups:
  - fine
  - Not-Fine
`
	_, faults := Parse("f.yaml", []byte(text))
	got := strings.Join(faults, "\n")
	for _, want := range []string{"f.yaml:6: metadata.labels.a.b/c: ", "f.yaml:7: metadata.labels.quoted.key: ", "f.yaml:12: spec.groups[1]: "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestParseSaysWhere(t *testing.T) {
	for text, want := range map[string]string{
		"a: [1,":                             "f.yaml:1: ",
		"just text":                          "f.yaml:1: is the text \"just text\"",
		"kind: Tap\nkind: Tap\n":             "f.yaml:2: ",
		"apiVersion: weft/v1\nkind: 7\n":     "f.yaml:2: kind: 7 is not known",
		"---\n---\napiVersion: weft/v1\n":    "kind: is missing",
		"- apiVersion: weft/v1\n- kind: Tap": "f.yaml:1: kind: is missing",
	} {
		_, faults := Parse("f.yaml", []byte(text))
		if !strings.Contains(strings.Join(faults, "\n"), want) {
			t.Errorf("%q: got %q, want ...%s...", text, faults, want)
		}
	}
	good := "apiVersion: weft/v1\nkind: Group\nmetadata: {name: %s}\nspec: {selector: \"*\"}\n"
	text := "---\n# about a\n---\n" + fmt.Sprintf(good, "a") + "---\n---\r\n" + fmt.Sprintf(good, "b") + "...\n---\n{}\n"
	items, faults := Parse("f.yaml", []byte(text))
	if len(items) != 2 || items[0].Line != 4 || items[1].Line != 10 || len(faults) != 2 || !strings.HasPrefix(faults[0], "f.yaml:16: ") {
		t.Errorf("empty documents: %v, %q", items, faults)
	}
	if items, faults := Parse("f.yaml", []byte("# nothing\n---\n")); len(items)+len(faults) != 0 {
		t.Errorf("an empty file: %v, %v", items, faults)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("apiVersion: weft/v1\nkind: Group\nmetadata: {name: g}\nspec: {selector: \"*\"}\n")
	f.Add("&a [*a]")
	f.Add("a: &x {b: *x}")
	f.Add("<<: {a: b}\n? [x]\n: y")
	f.Add("- kind: Tap\n  spec: {from: !!binary x}")
	f.Fuzz(func(t *testing.T, text string) {
		items, faults := Parse("f", []byte(text))
		for _, i := range items {
			if err := i.Resource.Validate(); err != nil {
				t.Errorf("%q was read with faults: %v, %v", text, err, faults)
			}
		}
	})
}
