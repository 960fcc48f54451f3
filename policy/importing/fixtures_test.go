package importing

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/golden"
	"weft/model"
)

func importFixture(t *testing.T, file string) (*Result, error) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	format, _, _ := strings.Cut(filepath.Base(file), "-")
	o := Options{}
	if Format(format) == IPTables {
		s, err := model.ParseSelector("host.name=m")
		if err != nil {
			t.Fatal(err)
		}
		o.Subject = &s
	}
	return Import(Format(format), []File{{filepath.Base(file), data}}, o)
}

func fixtures(t *testing.T, pattern string, least int) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) < least {
		t.Fatalf("fixtures: %v, %v", files, err)
	}
	return files
}

// Every testdata/*.bad.* is refused with exactly the messages beside it.
func TestBadFiles(t *testing.T) {
	for _, file := range fixtures(t, "testdata/*.bad.[yjt]*", 13) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := importFixture(t, file)
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("accepted, or not Faults: %v", err)
			}
			golden.Equal(t, strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))+".golden", err.Error()+"\n")
		})
	}
}

// Every testdata/*.good.* becomes the policies and the report beside it.
func TestGoodFiles(t *testing.T) {
	for _, file := range fixtures(t, "testdata/*.good.[yjt]*", 6) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			result, err := importFixture(t, file)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, p := range result.Policies {
				writePolicy(&b, p)
			}
			for _, f := range result.Report {
				fmt.Fprintf(&b, "\n%s:%d %s: %s: %s\n  means: %s\n  did: %s\n", f.File, f.Line, f.Effect, f.Object, f.Field, f.Means, f.Did)
			}
			golden.Equal(t, strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))+".golden", b.String())
		})
	}
}

func writePolicy(b *strings.Builder, p *model.Policy) {
	s := &p.Spec
	state := ""
	if !s.IsStateful() {
		state = " stateless"
	}
	fmt.Fprintf(b, "%s: %s %d%s for %s\n", p.Metadata.Name, s.Tier, *s.Priority, state, s.Subject.Selector)
	for _, r := range s.Ingress {
		fmt.Fprintf(b, "  in %s %s%s%s\n", r.Name, r.Action, peersText(r.From), portsText(r.Ports))
	}
	for _, r := range s.Egress {
		fmt.Fprintf(b, "  out %s %s%s%s\n", r.Name, r.Action, peersText(r.To), portsText(r.Ports))
	}
}

func peersText(peers []model.PolicyPeer) string {
	var b strings.Builder
	for _, p := range peers {
		if p.Selector != nil {
			fmt.Fprintf(&b, " {%s}", p.Selector)
		}
		for _, x := range p.IPBlocks {
			fmt.Fprintf(&b, " %s", x.CIDR)
			if len(x.Except) > 0 {
				fmt.Fprintf(&b, " but %s", strings.Join(x.Except, ","))
			}
		}
		for _, e := range p.Entities {
			fmt.Fprintf(&b, " @%s", e)
		}
		for _, n := range p.DomainNames {
			fmt.Fprintf(&b, " %s", n)
		}
	}
	return b.String()
}

func portsText(ports []model.PolicyPort) string {
	var b strings.Builder
	for _, p := range ports {
		first, last := p.Range()
		fmt.Fprintf(&b, " %s/%d-%d", p.Protocol, first, last)
	}
	return b.String()
}
