package topology

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/golden"
)

// TestBadFiles compares the whole message that a person reads with the file
// beside the fixture.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no fixtures", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(filepath.Base(file), data)
			if err == nil {
				t.Fatal("accepted")
			}
			golden.Equal(t, strings.TrimPrefix(strings.TrimSuffix(file, ".yaml"), "testdata/")+".txt", err.Error()+"\n")
		})
	}
}

func TestSavedTopologyPlansTheSame(t *testing.T) {
	topo, err := Load("../../examples/hybrid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "topology.json")
	if err := topo.Save(path); err != nil {
		t.Fatal(err)
	}
	saved, err := LoadSaved(path)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := topo.Plan()
	b, err := saved.Plan()
	if err != nil || text(a) != text(b) {
		t.Errorf("saved topology plans another lab: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	examples, _ := filepath.Glob("../../examples/*.yaml")
	for _, file := range append(files, examples...) {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		topo, err := Parse("f.yaml", data)
		if err != nil {
			return
		}
		if _, err := topo.Plan(); err != nil {
			t.Errorf("accepted but has no plan: %v", err)
		}
	})
}
