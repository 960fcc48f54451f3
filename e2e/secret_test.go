package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/model"
)

// TestSecretsStayPut looks for tokens and keys where they must not be: in logs,
// in command lines and environments, in files that others may read, in what the
// API tells.
func TestSecretsStayPut(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.relay()
	f.agents("tool", "web")
	f.applied(tapWeb)
	f.reaches("web", model.TapActive, 5*time.Second)
	f.balanced("web")

	secrets := map[string]string{} // what it is, by its text
	keep := func(what, text string) {
		if len(text) < 30 {
			t.Fatalf("%s is too short to look for: %q", what, text)
		}
		secrets[text] = what
	}
	home := map[string]bool{} // the files that may hold one
	err := filepath.WalkDir(filepath.Join(f.lab.Dir(), "hosts"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && e.Name() == "bpf" {
			return fs.SkipDir // no files of ours
		}
		if err != nil || !e.Type().IsRegular() {
			return nil // a socket, or gone meanwhile
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text := string(data)
		if strings.HasSuffix(path, ".token") {
			_, rest, _ := strings.Cut(strings.TrimSpace(text), "~")
			secret, _, _ := strings.Cut(rest, "~")
			keep(path, secret)
			home[path] = true
		}
		for rest := text; ; {
			_, block, found := strings.Cut(rest, "PRIVATE KEY-----\n")
			if !found {
				break
			}
			line, after, _ := strings.Cut(block, "\n")
			// The first line of a key is much the same in all; the second is not.
			if second, _, _ := strings.Cut(after, "\n"); !strings.HasPrefix(second, "-") {
				line = second
			}
			keep("private key in "+path, line)
			home[path] = true
			_, rest, _ = strings.Cut(block, "PRIVATE KEY-----\n")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	admin := filepath.Join(f.state(controllerHost), "controller", "admin.token")
	if !home[admin] {
		t.Errorf("the first admin token is not in %s", admin)
	}
	says(t, "the controller", f.procs[controllerHost].text(), "The first admin token is in "+admin)
	// tool, web, relay: token and key; the controller: admin token, authority's key, server's key.
	if len(secrets) < 8 {
		t.Fatalf("only %d secrets found; this test has to learn where they are: %v", len(secrets), home)
	}
	search := func(where, text string) {
		for secret, what := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds the secret of %s", where, what)
			}
		}
	}
	for _, p := range f.procs {
		search("the log of "+p.name, p.text())
		for _, file := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
			if err != nil || len(data) == 0 {
				t.Errorf("read %s of %s: %v", file, p.name, err)
			}
			search(file+" of "+p.name, string(data))
		}
	}
	for path := range home {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s holds a secret and has mode %v, %v", path, info.Mode(), err)
		}
	}
	for _, command := range [][]string{{"get", "jointokens", "-o", "json"}, {"get", "accesstokens", "-o", "json"}, {"get", "hosts", "-o", "json"}, {"audit", "-o", "json"}} {
		search("weft "+strings.Join(command, " "), f.ok(command...))
	}
	filepath.WalkDir(filepath.Join(f.lab.Dir(), "hosts"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && e.Name() == "bpf" {
			return fs.SkipDir
		}
		if err == nil && e.Type().IsRegular() && !home[path] {
			if info, err := e.Info(); err == nil && info.Mode().Perm()&0o004 != 0 && info.Size() < 1<<20 {
				data, _ := os.ReadFile(path)
				search(path, string(data))
			}
		}
		return nil
	})
	// Whoever may not be root reaches no API by the socket.
	info, err := os.Stat(f.socket)
	if err != nil || info.Mode().Perm()&0o006 != 0 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
}
