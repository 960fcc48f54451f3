package importing

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"weft/model"
	"weft/policy"
)

// fuzzFormat reads anything: no panic, faults with a place, and policies that are
// valid and compile.
func fuzzFormat(f *testing.F, format Format) {
	files, err := filepath.Glob("testdata/" + string(format) + "-*.[yjt]*")
	if err != nil || len(files) == 0 {
		f.Fatalf("seeds: %v, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	subject := model.Selector{}
	f.Fuzz(func(t *testing.T, data []byte) {
		result, err := Import(format, []File{{"f", data}}, Options{Subject: &subject})
		if err != nil {
			var faults Faults
			if errors.As(err, &faults) {
				for _, x := range faults {
					if x.File == "" || x.Line < 1 || x.Message == "" {
						t.Fatalf("a fault without a place: %#v", x)
					}
				}
			}
			return
		}
		for _, p := range result.Policies {
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := policy.Compile(&policy.World{Policies: result.Policies, Identities: policy.NewIdentities(), Through: model.StageStaged}); err != nil {
			t.Fatal(err)
		}
		_ = result.Report.String()
	})
}

func FuzzKubernetes(f *testing.F)           { fuzzFormat(f, Kubernetes) }
func FuzzClusterNetworkPolicy(f *testing.F) { fuzzFormat(f, ClusterNetworkPolicy) }
func FuzzCalico(f *testing.F)               { fuzzFormat(f, Calico) }
func FuzzIPTables(f *testing.F)             { fuzzFormat(f, IPTables) }
func FuzzAWS(f *testing.F)                  { fuzzFormat(f, AWS) }
func FuzzOpenStack(f *testing.F)            { fuzzFormat(f, OpenStack) }

// An expression that can be said means the same when it is read as the selectors'
// own text.
func FuzzCalicoExpression(f *testing.F) {
	for _, s := range []string{"all()", "a == 'b' && !has(c)", "(a in {'x', 'y'} || global()) && a.b/c != \"z\"", "a starts with 'x'", "!!(!a not in {})"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		some, err := calicoExpression(text, workloadKey)
		if err != nil {
			return
		}
		if len(some) > maxAlternatives {
			t.Fatalf("%d alternatives", len(some))
		}
		for _, s := range some {
			again, err := model.ParseSelector(s.String())
			if err != nil || again.String() != s.String() {
				t.Fatalf("%q: %v, %s", s, err, again)
			}
		}
	})
}
