package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"weft/model"
	"weft/policy/importing"
)

// What import writes reads back as the very policies it made.
func TestImportedPoliciesReadBack(t *testing.T) {
	files, err := filepath.Glob("../../policy/importing/testdata/*.good.[yjt]*")
	if err != nil || len(files) < 6 {
		t.Fatalf("fixtures: %v, %v", files, err)
	}
	subject := "host.name=web-1"
	for _, file := range files {
		format, _, _ := strings.Cut(filepath.Base(file), "-")
		var out, faults bytes.Buffer
		c := newPolicyImportCommand()
		c.SetOut(&out)
		c.SetErr(&faults)
		c.SetArgs([]string{"--from", format, "--subject", subject, "--accept-open", file})
		if err := c.Execute(); err != nil {
			t.Fatalf("%s: %v\n%s", file, err, faults.String())
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := model.ParseSelector(subject)
		want, err := importing.Import(importing.Format(format), []importing.File{{Name: file, Data: data}}, importing.Options{Subject: &s})
		if err != nil {
			t.Fatal(err)
		}
		docs := strings.Split(out.String(), "---\n")
		if len(docs) != len(want.Policies) {
			t.Fatalf("%s: %d documents, %d policies", file, len(docs), len(want.Policies))
		}
		for i, doc := range docs {
			var v any
			if err := yaml.Unmarshal([]byte(doc), &v); err != nil {
				t.Fatal(err)
			}
			got, err := model.DecodePolicy(v)
			if err != nil {
				t.Fatalf("%s: %v\n%s", file, err, doc)
			}
			if diff := cmp.Diff(want.Policies[i], got); diff != "" {
				t.Errorf("%s (-made +read):\n%s", file, diff)
			}
		}
	}
}
