package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPage(t *testing.T) {
	var out strings.Builder
	in := `{"bench":"C2","name":"b","peer":"weft","unit":"","median":0.31234,"iqr":0.01,"runs":5,"kernel":"6.18.1","commit":"abc"}
{"bench":"L1","name":"a","peer":"weft","unit":"s","median":1,"iqr":0,"runs":5,"kernel":"6.18.1","commit":"abc"}
{"bench":"L1","name":"a","peer":"Mininet","unit":"s","median":12345,"iqr":0,"runs":5,"ratio":0.5,"note":"slow","kernel":"6.18.1","commit":"abc"}
`
	if err := run("", &out, strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	page := out.String()
	for _, want := range []string{"| a | Mininet | 12345 | 0 | s | 5 | 0.5 | slow |\n", "| b | weft | 0.312 | 0.01 |  | 5 |  |  |\n", "Kernel 6.18.1, commit abc."} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %q:\n%s", want, page)
		}
	}
	if strings.Index(page, "## L1") > strings.Index(page, "## C2") {
		t.Error("sections are not in order")
	}
}

func TestPageRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"": "no cells",
		"{\"bench\":\"Z9\",\"name\":\"a\",\"runs\":1}\n": "no section",
		"{\"bench\":\"L1\",\"name\":\"a\",\"runs\":0}\n": "no run",
		"panic: oh\n": "read cell",
	} {
		if err := run("", &strings.Builder{}, strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", in, err, want)
		}
	}
}

// A section that was measured again takes the place of what was kept of it; the
// others stay, each with its own commit.
func TestSectionsAreKept(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "cells")
	cell := func(bench, name, commit string) string {
		return fmt.Sprintf("{\"bench\":%q,\"name\":%q,\"peer\":\"weft\",\"unit\":\"s\",\"median\":1,\"iqr\":0,\"runs\":5,\"kernel\":\"6.1\",\"commit\":%q}\n", bench, name, commit)
	}
	var page strings.Builder
	for _, in := range []string{cell("L1", "old", "aaa") + cell("L1", "gone", "aaa") + cell("C2", "stays", "aaa"), cell("L1", "new", "bbb")} {
		page.Reset()
		if err := run(keep, &page, strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
	}
	for want, n := range map[string]int{"| new |": 1, "| stays |": 1, "| old |": 0, "| gone |": 0, "commit aaa.": 1, "commit bbb.": 1} {
		if strings.Count(page.String(), want) != n {
			t.Errorf("%q is not there %d times:\n%s", want, n, page.String())
		}
	}
	kept, err := os.ReadFile(keep)
	if want := cell("L1", "new", "bbb") + cell("C2", "stays", "aaa"); err != nil || string(kept) != want {
		t.Errorf("%v, kept:\n%s", err, kept)
	}
}
