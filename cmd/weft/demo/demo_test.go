package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"weft/internal/testreq"
)

// TestDemo runs the whole demo and demands that every step passes.
func TestDemo(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.BPF, testreq.Cgroup2, "nft", "tcpdump", "tshark", "curl", "ping", "ip")
	bin := os.Getenv("WEFT_BIN")
	if bin == "" {
		bin = t.TempDir()
		for _, name := range []string{"weft", "weft-agent"} {
			build := exec.Command("go", "build", "-o", filepath.Join(bin, name), "weft/cmd/"+name)
			build.Env = append(os.Environ(), "CGO_ENABLED="+map[string]string{"weft": "1", "weft-agent": "0"}[name])
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build %s: %v\n%s", name, err, out)
			}
		}
	}
	var out strings.Builder
	err := Run(t.Context(), &out, Options{Bin: bin, Once: true})
	t.Log("\n" + out.String())
	if err != nil {
		t.Fatal(err)
	}
}
