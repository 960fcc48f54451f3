package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// helperVariable makes this test binary one of the helpers below: a web server,
// a client that counts its failures, an etcd. They run inside the lab.
const helperVariable = "WEFT_E2E_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVariable); name != "" {
		if err := helper(name, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// binaries is the directory of weft and weft-agent.
func binaries(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("WEFT_BIN"); dir != "" {
		for _, name := range []string{"weft", "weft-agent"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Fatalf("WEFT_BIN: %v; build both with make build", err)
			}
		}
		return dir
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "weft-e2e-"); built.err != nil {
			return
		}
		build := func(name, cgo string) error {
			cmd := exec.Command("go", "build", "-buildvcs=false", "-o", built.dir, "./cmd/"+name)
			cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED="+cgo)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("build %s: %w: %s", name, err, out)
			}
			return nil
		}
		built.err = errors.Join(build("weft", "1"), build("weft-agent", "0"))
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}
