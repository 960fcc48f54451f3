package flowstore

import (
	"bufio"
	"bytes"
	"maps"
	"strings"
	"testing"
)

// Of a flow whose labels and addresses were seen before, a row costs nothing but
// its place.
func TestRowsDoNotAllocate(t *testing.T) {
	f, known := flow("web", "db", 5432, 1), newTexts()
	b := newBlock(tables[reports], 2000)
	addReport(b, &f, 1, 1, known)
	if n := testing.AllocsPerRun(1000, func() { addReport(b, &f, 2, 1, known) }); n > 0 {
		t.Errorf("%g allocations for a row", n)
	}
}

func FuzzLabels(f *testing.F) {
	f.Add("app", "web", "env", "prod")
	f.Add("", "", "a\x1fb", "\x1e")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		in := map[string]string{k1: v1, k2: v2}
		want := map[string]string{}
		for k, v := range in {
			if strings.ContainsAny(k+v, labelEnds+labelPairs) || k == "" {
				return // of which nothing more is asked than that it is read
			}
			want[k] = v
		}
		if got := readLabels(labelText(in)); !maps.Equal(got, want) {
			t.Errorf("%q became %q", want, got)
		}
	})
}

// What a server answers is read within bounds, whatever it is.
func FuzzRows(f *testing.F) {
	b := newBlock(&table{"x", []column{{"n", u64}, {"s", text}}, ""}, 1)
	r := b.row()
	put(&r, uint64(7))
	put(&r, "text")
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	if err := writeRows(w, b); err != nil {
		f.Fatal(err)
	}
	w.Flush()
	f.Add(out.Bytes())
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		kinds := []kind{u64, text}
		a := newAnswer(kinds)
		if err := readRows(bytes.NewReader(data), kinds, a); err == nil && (len(a.numbers[0]) != a.rows || len(a.texts[1]) != a.rows || (a.rows == 0) != (len(data) == 0)) {
			t.Errorf("%d rows, %d numbers and %d texts of %d bytes", a.rows, len(a.numbers[0]), len(a.texts[1]), len(data))
		}
	})
}

// A literal is whole: nothing in it ends it.
func FuzzLiterals(f *testing.F) {
	f.Add("a'b", `\`)
	f.Add("?", "\x00")
	f.Fuzz(func(t *testing.T, a, b string) {
		sql, err := literals(ask("SELECT ?, ?", a, b))
		if err != nil {
			t.Fatal(err)
		}
		rest := strings.TrimPrefix(sql, "SELECT ")
		for _, want := range []string{a, b} {
			var got strings.Builder
			i := 1
			for ; rest[i] != '\''; i++ {
				if rest[i] == '\\' {
					if i++; rest[i] == '0' {
						got.WriteByte(0)
						continue
					}
				}
				got.WriteByte(rest[i])
			}
			if got.String() != want {
				t.Errorf("%q became %q", want, got.String())
			}
			rest = strings.TrimPrefix(rest[i+1:], ", ")
		}
		if rest != "" {
			t.Errorf("%q is left of %q", rest, sql)
		}
	})
}
