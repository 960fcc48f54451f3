package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/model"
)

// TestJoinToken shows what a machine says whose token does not fit. The program
// must end by itself: nobody can see one that waits forever.
func TestJoinToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.agents("tool")
	path := filepath.Join(f.state("web"), "join.token")
	try := func(t *testing.T, args ...string) string {
		t.Helper()
		os.RemoveAll(f.agentDir("web"))
		p := f.startAgent("web", args...)
		text := p.ended(t, 10*time.Second)
		os.Remove(p.log)
		if p.cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("the agent ended with %v", p.cmd.ProcessState)
		}
		if secret, err := os.ReadFile(path); err == nil && len(secret) > 60 && strings.Contains(text, strings.TrimSpace(string(secret))) {
			t.Errorf("the token is in the log:\n%s", text)
		}
		return text
	}

	t.Run("expired", func(t *testing.T) {
		f.token("web", "old", "--ttl", "1s")
		time.Sleep(1200 * time.Millisecond)
		says(t, "the agent", try(t), `join https://controller:443: join token "old" expired at `, "ask for a new one: weft token create")
		says(t, "the list of tokens", f.ok("token", "list"), "old")
	})
	t.Run("used up", func(t *testing.T) {
		secret, err := os.ReadFile(filepath.Join(f.state("tool"), "join.token"))
		if err != nil {
			t.Fatal(err)
		}
		f.write(path, string(secret), 0o600)
		says(t, "the agent", try(t), "is used up (1 of 1); ask for a new one: weft token create")
	})
	t.Run("wrong role", func(t *testing.T) {
		f.token("web", "--role", "relay")
		says(t, "the agent", try(t), `admits a relay, not a "host"; ask for one with --role host`)
	})
	t.Run("deleted", func(t *testing.T) {
		f.token("web", "gone")
		f.ok("token", "delete", "gone")
		says(t, "the agent", try(t), "join token is not known here; it may have been deleted: weft token list")
	})
	t.Run("damaged", func(t *testing.T) {
		secret, _ := os.ReadFile(f.token("web"))
		f.write(path, string(secret[:len(secret)/2]), 0o600)
		says(t, "the agent", try(t), "read join token "+path+": ", "join token")
		f.write(path, "", 0o600)
		says(t, "the agent", try(t), "read join token "+path+": ")
	})
	t.Run("changed", func(t *testing.T) {
		secret, _ := os.ReadFile(f.token("web"))
		name, rest, _ := strings.Cut(string(secret), "~")
		letter := "A"
		if strings.HasPrefix(rest, "A") {
			letter = "B"
		}
		f.write(path, name+"~"+letter+rest[1:], 0o600)
		says(t, "the agent", try(t), "join token")
	})
	t.Run("missing", func(t *testing.T) {
		os.Remove(path)
		says(t, "the agent", try(t), "read join token: stat "+path+": no such file or directory")
	})
	t.Run("for another controller", func(t *testing.T) {
		secret, _ := os.ReadFile(f.token("web"))
		parts := strings.Split(strings.TrimSpace(string(secret)), "~")
		parts[len(parts)-1] = strings.Repeat("0", 64)
		f.write(path, strings.Join(parts, "~")+"\n", 0o600)
		says(t, "the agent", try(t), "controller is not the one this token is for: the token names authority 0000000000000000…",
			"check the controller's address, and that nobody answers in its place")
	})
	t.Run("name taken", func(t *testing.T) {
		f.token("web")
		says(t, "the agent", try(t, "--name", "tool"), `the name "tool" is taken by another host, which is online`, "--name", "weft delete host tool")
	})
	t.Run("no controller there", func(t *testing.T) {
		f.token("web")
		os.RemoveAll(f.agentDir("web"))
		p := f.startAgent("web", "--controller", "https://spare:443")
		f.wait(5*time.Second, "the agent says that it tries again", func() error {
			if err := p.alive(); err != nil {
				t.Fatal(err)
			}
			if text := p.text(); !strings.Contains(text, "join is tried again") || !strings.Contains(text, "connection refused") {
				return fmt.Errorf("it says:\n%s", text)
			}
			return nil
		})
		p.end()
		os.Remove(p.log)
	})
	t.Run("file that others may read", func(t *testing.T) {
		f.token("web")
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		os.RemoveAll(f.agentDir("web"))
		p := f.startAgent("web")
		f.online("web")
		says(t, "the agent", p.text(), "anyone on this machine may read the join token", "chmod 600 "+path)
	})
	// Nothing of all this has used a token up or left a host behind.
	var hosts []model.Host
	if err := f.get(&hosts, "hosts"); err != nil || len(hosts) != 2 {
		t.Errorf("hosts are %d, %v; want tool and web", len(hosts), err)
	}
}
