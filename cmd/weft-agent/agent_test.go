package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/model"
)

func TestAgentJoinsAndItsWorkloadShows(t *testing.T) {
	c := newControl(t)
	dir := t.TempDir()
	p := startAgent(t, agentArgs(c, dir, "web-1", c.tokenFile("join", map[string]string{"site": "lab"}))...)
	eventually(t, 10*time.Second, "host online with applied sections", func() bool { return c.online("web-1") })
	ws := c.obs.Workloads()
	if len(ws) == 0 || ws[0].Metadata.Name != "web-1" || ws[0].Metadata.Labels["role"] != "test" || ws[0].Metadata.Labels["site"] != "lab" ||
		ws[0].Metadata.Labels["workload.kind"] != "host" || ws[0].Metadata.Labels["os.arch"] == "" {
		t.Fatalf("workloads: %+v", ws)
	}
	st := c.status("web-1")
	if st.Kernel == "" || st.CPUs == 0 || st.MemoryBytes == 0 || st.BootID == "" || st.CertificateExpires == nil || st.Capabilities["bpf"] == "" {
		t.Errorf("facts: %+v", st)
	}
	if out := agentCommand(t, "status", "--state-dir", dir, "--controller", c.url()); !strings.Contains(out, ": connected for") || !strings.Contains(out, "capture") {
		t.Errorf("status says:\n%s", out)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.wait(10 * time.Second); err != nil {
		t.Errorf("stopping by signal: %v", err)
	}
	eventually(t, 5*time.Second, "host offline", func() bool { return c.status("web-1").State == model.HostOffline })
}

// agentCommand runs a command of the agent to its end.
func agentCommand(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "WEFT_TEST_AGENT=1")
	out, _ := cmd.CombinedOutput()
	return string(out)
}

func TestSecondAgentWithTheSameStateDirectoryIsRefused(t *testing.T) {
	c := newControl(t)
	dir := t.TempDir()
	args := agentArgs(c, dir, "web-1", c.tokenFile("join", nil))
	first := startAgent(t, args...)
	eventually(t, 10*time.Second, "first agent online", func() bool { return c.online("web-1") })
	second := startAgent(t, args...)
	if err := second.wait(10 * time.Second); err == nil {
		t.Error("second agent ended without an error")
	}
	want := "in use by process " + strconv.Itoa(first.cmd.Process.Pid)
	if !second.said(want) {
		t.Errorf("second agent does not say %q:\n%s", want, second.log.String())
	}
}

func TestAgentWorksOnWhileTheControllerIsAway(t *testing.T) {
	c := newControl(t)
	dir := t.TempDir()
	args := agentArgs(c, dir, "ids", c.tokenFile("join", map[string]string{"role": "ids"}))
	p := startAgent(t, args...)
	eventually(t, 10*time.Second, "online", func() bool { return c.online("ids") })

	c.stop()
	eventually(t, 5*time.Second, "agent notices", func() bool { return p.said("no session with the controller") })
	p.kill()
	again := startAgent(t, args...)
	eventually(t, 10*time.Second, "sections applied from disk with no controller", func() bool {
		return again.said("section=capture") && again.said("section=deliver") && again.said("section=transport")
	})
	c.start()
	if c.status("ids").Workloads == 0 {
		t.Error("the controller forgot in its restart what the host had reported")
	}
	eventually(t, 15*time.Second, "online again", func() bool { return c.online("ids") })
	if n := strings.Count(again.log.String(), "section applied"); n != 8 {
		t.Errorf("%d sections applied, want the 8 from disk and none sent again:\n%s", n, again.log.String())
	}
}

func TestCloneIsNamedAndRefused(t *testing.T) {
	c := newControl(t)
	dir, copied := t.TempDir(), filepath.Join(t.TempDir(), "clone")
	args := agentArgs(c, dir, "web-1", c.tokenFile("join", nil))
	startAgent(t, args...)
	eventually(t, 10*time.Second, "online", func() bool { return c.online("web-1") })
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil && !strings.Contains(err.Error(), "status.sock") {
		t.Fatal(err)
	}
	_ = os.Chmod(filepath.Join(copied, "identity", "identity.pem"), 0o600)
	clone := startAgent(t, agentArgs(c, copied, "web-1", "")...)
	eventually(t, 10*time.Second, "clone told", func() bool { return clone.said("already has a session from another program") })
	if c.status("web-1").State != model.HostOnline {
		t.Error("the clone put the first one out")
	}
}

func TestRevokedAgentTakesEverythingDown(t *testing.T) {
	c := newControl(t)
	dir := t.TempDir()
	p := startAgent(t, agentArgs(c, dir, "web-1", c.tokenFile("join", nil))...)
	eventually(t, 10*time.Second, "online", func() bool { return c.online("web-1") })
	h := c.host("web-1")
	h.Spec.Revoked = true
	if err := c.store.Update(t.Context(), tester, h); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "agent told", func() bool { return p.said("is revoked") && p.said("everything is taken down") })
	eventually(t, 5*time.Second, "no last-known-good state left", func() bool {
		left, _ := filepath.Glob(filepath.Join(dir, "sections", "*"))
		return len(left) == 0
	})
	if out := agentCommand(t, "status", "--state-dir", dir); !strings.Contains(out, "NOT connected") || !strings.Contains(out, "revoked") {
		t.Errorf("status says:\n%s", out)
	}
}

func TestDamagedStateIsSetAsideAndSaid(t *testing.T) {
	c := newControl(t)
	dir := t.TempDir()
	args := agentArgs(c, dir, "web-1", c.tokenFile("join", nil))
	p := startAgent(t, args...)
	eventually(t, 10*time.Second, "online", func() bool { return c.online("web-1") })
	p.kill()
	path := filepath.Join(dir, "sections", "capture")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	startAgent(t, args...)
	eventually(t, 30*time.Second, "condition shows at the controller, and the section is sent again", func() bool {
		st := c.status("web-1")
		for _, cond := range st.Conditions {
			if cond.Type == "StateDamaged" && strings.Contains(cond.Message, "checksum") {
				return c.online("web-1")
			}
		}
		return false
	})
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Errorf("the damaged file is not kept: %v", err)
	}
}
