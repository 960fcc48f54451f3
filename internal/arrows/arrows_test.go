// Package arrows holds the test of who may import whom.
package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mayImport says which rooms each room may reach into besides itself. Arrows
// point down: the four programs never import one another, they meet in wire.
var mayImport = map[string][]string{
	"cmd":        {"controller", "agent", "relay", "lab", "policy", "wire", "model", "packet", "internal", "docs", "web", "examples"},
	"controller": {"policy", "wire", "model", "packet", "internal", "docs", "web"},
	"agent":      {"policy", "wire", "model", "packet", "internal"},
	"relay":      {"wire", "model", "packet", "internal"},
	"lab":        {"model", "packet", "internal"},
	"policy":     {"model", "packet"},
	"wire":       {"policy", "model", "packet"},
	"model":      {},
	"packet":     {},
	"internal":   {"wire", "model"},
	"bench":      {"cmd", "controller", "agent", "relay", "lab", "policy", "wire", "model", "packet", "internal"},
	"docs":       {"model"},
	"scripts":    {},
	"examples":   {},
	"e2e":        {"lab", "model", "wire", "internal", "packet"},
}

// banned names imports that a program must not reach, and why.
var banned = map[string]map[string]string{
	"weft/cmd/weft-agent": {
		"go.etcd.io/etcd/server": "the agent keeps no database",
		"weft/controller":        "the agent and the controller meet in wire",
		"weft/lab":               "the agent is no lab",
		"runtime/cgo":            "the agent is a static binary",
		"github.com/spf13/viper": "configuration is one strict file",
	},
	"weft/packet": {"golang.org": "packet needs the standard library only", "github.com": "packet needs the standard library only"},
	"weft/policy": {"net/http": "policy does no I/O", "os/exec": "policy does no I/O"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
	CgoFiles   []string
}

func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps,CgoFiles"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func room(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "weft/"), "/")
	return name
}

func TestArrowsPointDown(t *testing.T) {
	for _, p := range list(t, "-e", "./...") {
		from := room(p.ImportPath)
		allowed, known := mayImport[from]
		if !known {
			t.Errorf("%s: room %q is not in mayImport; add it with the rooms it may use", p.ImportPath, from)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, "weft/") || room(imp) == from {
				continue
			}
			ok := false
			for _, a := range allowed {
				ok = ok || room(imp) == a
			}
			if !ok {
				t.Errorf("%s imports %s: %s may use only %v", p.ImportPath, imp, from, allowed)
			}
		}
	}
}

// A reconciler is a folder of agent/; nobody but the folder itself and cmd uses it.
// What a machine's connection table says is no reconciler: it is what they share.
func TestReconcilersDoNotImportOneAnother(t *testing.T) {
	for _, p := range list(t, "-e", "./agent/...") {
		from := strings.Split(p.ImportPath, "/")
		for _, imp := range p.Imports {
			to := strings.Split(imp, "/")
			if len(to) > 2 && to[0] == "weft" && to[1] == "agent" && to[2] != "connection" && (len(from) < 3 || from[2] != to[2]) {
				t.Errorf("%s imports %s: reconcilers are wired together in cmd/weft-agent only", p.ImportPath, imp)
			}
		}
	}
}

func TestBannedImports(t *testing.T) {
	for path, bans := range banned {
		for _, p := range list(t, "-e", "./"+strings.TrimPrefix(path, "weft/")+"/...") {
			for _, dep := range p.Deps {
				for prefix, why := range bans {
					if dep == prefix || strings.HasPrefix(dep, prefix+"/") {
						t.Errorf("%s reaches %s: %s", p.ImportPath, dep, why)
					}
				}
			}
		}
	}
}
