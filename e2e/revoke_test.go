package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/model"
)

// pins lists what an agent has pinned in its host's kernel.
func (f *fleet) pins(host string) []string {
	var out []string
	dir := f.lab.Host(host).BPFDir()
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		// maps.debug and progs.debug are the file system's own.
		if err == nil && !e.IsDir() && !strings.HasSuffix(path, ".debug") {
			out = append(out, strings.TrimPrefix(path, dir+"/"))
		}
		return nil
	})
	return out
}

func (f *fleet) received(tool, device string) string {
	f.t.Helper()
	return strings.TrimSpace(f.run(f.lab.Host(tool), "cat", "/sys/class/net/"+device+"/statistics/rx_packets"))
}

const revokeWeb = "apiVersion: weft/v1\nkind: Host\nmetadata: {name: web}\nspec: {revoked: true}\n"

func TestRevokedHost(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.relay()
	f.agents("tool", "web")
	f.applied(tapWeb)
	f.reaches("web", model.TapActive, 5*time.Second)
	f.metered("web") // all that the agent puts into the kernel is there
	work := f.work("spare", "web", 2000, 20*time.Millisecond)
	if len(f.pins("web")) == 0 {
		t.Fatal("the source pins nothing: nothing is shown")
	}

	says(t, "apply", f.apply(revokeWeb).stderr, "a revoked host cannot be taken back; to use the machine again, delete it and join with a new token")
	began := time.Now()
	agent := f.procs["web"]
	f.wait(time.Second, "session and tap are cut", func() error {
		if text := agent.text(); !strings.Contains(text, "this machine was put out by the controller; everything is taken down") || !strings.Contains(text, `host \"web\" is revoked`) {
			return fmt.Errorf("the agent says:\n%s", agent.tail(5))
		}
		if left := f.pins("web"); len(left) > 0 {
			return fmt.Errorf("still in the kernel: %s", strings.Join(left, ", "))
		}
		return nil
	})
	t.Logf("cut within %s", time.Since(began).Round(time.Millisecond))
	count := f.received("tool", "weft0")
	time.Sleep(time.Second)
	if now := f.received("tool", "weft0"); now != count {
		t.Errorf("packets still arrive: %s, then %s", count, now)
	}
	h, err := f.host("web")
	if err != nil || h.Status.State != model.HostRevoked {
		t.Errorf("the host is %v, %v", h, err)
	}
	tap := f.reaches("web", model.TapPending, 2*time.Second)
	says(t, "the tap", tap.Status.Message, "spec.from matches no workload")

	// Neither a restart nor an edit brings it back.
	agent = f.startAgent("web")
	f.wait(5*time.Second, "the restarted agent is refused", func() error {
		if !strings.Contains(agent.text(), "this machine was put out by the controller") {
			return fmt.Errorf("it says:\n%s", agent.tail(5))
		}
		return agent.alive()
	})
	r := f.apply(strings.Replace(revokeWeb, "true", "false", 1))
	says(t, "taking the revocation back", r.stderr, "a revoked host stays revoked; delete it, and let the machine join again with a new token")
	status := f.run(f.lab.Host("web"), filepath.Join(f.bin, "weft-agent"), "status", "--controller", "https://controller:443", "--state-dir", f.agentDir("web"))
	says(t, "weft-agent status", status, "NOT connected", `host "web" is revoked; join again with a new token: weft-agent join --again`)

	// The old token does not help, a new one does.
	agent.end()
	join := append(f.agentArgs("web"), "--again")
	join[0] = "join"
	join = append([]string{filepath.Join(f.bin, "weft-agent")}, join...)
	out, err := f.lab.Host("web").Command(f.ctx, join...).CombinedOutput()
	if err == nil {
		t.Errorf("the old token was good for another join: %s", out)
	}
	says(t, "the second join", string(out), "is used up (1 of 1)")
	f.token("web")
	says(t, "the join with a new token", f.run(f.lab.Host("web"), join...), "joined as spiffe://weft/host/web/")
	f.startAgent("web")
	f.online("web")
	f.reaches("web", model.TapActive, 5*time.Second)
	work.unharmed()
}

// TestSourceWithoutTap lets a source work on by a tap that is gone meanwhile:
// the tool must refuse it.
func TestSourceWithoutTap(t *testing.T) {
	t.Parallel()
	f := newFleet(t, strings.Replace(flat, "{name: spare, attach: net}", "{name: spare, attach: net, labels: {app: spare}}", 1))
	f.controller()
	f.agents("tool", "web", "spare")
	f.applied(tapWeb)
	f.applied(tapOf("spare", `{selector: "app=spare"}`, toTool))
	f.reaches("web", model.TapActive, 5*time.Second)
	f.reaches("spare", model.TapActive, 5*time.Second)

	// It misses the end of its tap, and comes back while the controller is away.
	f.procs["web"].kill()
	f.ok("delete", "tap", "web")
	f.wait(5*time.Second, "the tool has withdrawn the grant", func() error {
		section, err := os.ReadFile(filepath.Join(f.agentDir("tool"), "sections", "deliver"))
		if err == nil && strings.Contains(string(section), "/host/web/") {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	f.procs[controllerHost].end()
	count := f.received("tool", "weft0")
	agent := f.startAgent("web")
	f.wait(10*time.Second, "the tool refuses the source", func() error {
		if !strings.Contains(f.procs["tool"].text(), "no current tap names this source for this line") {
			return fmt.Errorf("the tool says:\n%s", f.procs["tool"].tail(5))
		}
		return agent.alive()
	})
	for range 20 {
		f.run(f.lab.Host("web"), "ping", "-c", "1", "-W", "1", f.lab.Host(relayHost).Addresses()[0].String())
	}
	// The tap of spare copies what spare says to others, which is little.
	was, _ := strconv.Atoi(count)
	if now, err := strconv.Atoi(f.received("tool", "weft0")); err != nil || now-was > 15 {
		t.Errorf("weft0 had %d packets and has %d: the pings of web are among them", was, now)
	}
	if pins := strings.Join(f.pins("web"), " "); !strings.Contains(pins, "link-") {
		t.Errorf("the source taps no more, so nothing is shown: %s", pins)
	}
	// With the controller back, the source learns of it and lets go.
	f.controller()
	f.online("web")
	f.wait(5*time.Second, "the source lets go", func() error {
		metering := func(pin string) bool { return strings.HasPrefix(pin, "policy/") || strings.HasPrefix(pin, "flow/") }
		if left := slices.DeleteFunc(f.pins("web"), metering); len(left) > 0 {
			return fmt.Errorf("still in the kernel: %s", strings.Join(left, ", "))
		}
		return nil
	})
}

// TestOneStateDirectory starts a second agent on the directory of the first.
func TestOneStateDirectory(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.agents("web", "spare")
	first := f.procs["web"]
	second := f.start("web-second", f.lab.Host("web"), filepath.Join(f.bin, "weft-agent"), f.agentArgs("web")...)
	says(t, "the second agent", second.ended(t, 5*time.Second),
		fmt.Sprintf("state directory %s is in use by process %d; stop that agent first, or give this one another directory (--state-dir)", f.agentDir("web"), first.cmd.Process.Pid))
	if err := first.alive(); err != nil {
		t.Error(err)
	}

	// A machine that was cloned with its identity: the original goes on, the
	// clone says what it is, and the controller too.
	secret, err := os.ReadFile(filepath.Join(f.agentDir("web"), "identity", "identity.pem"))
	if err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(f.agentDir("tool"), "identity")
	if err := os.MkdirAll(clone, 0o700); err != nil {
		t.Fatal(err)
	}
	f.write(filepath.Join(clone, "identity.pem"), string(secret), 0o600)
	f.startAgent("tool", "--name", "web")
	f.wait(5*time.Second, "the clone is refused", func() error {
		if text := f.procs["tool"].text(); !strings.Contains(text, `host \"web\" already has a session from another program`) || !strings.Contains(text, "if the machine was cloned, remove the state directory of one") {
			return fmt.Errorf("it says:\n%s", f.procs["tool"].tail(5))
		}
		return nil
	})
	says(t, "the controller", f.procs[controllerHost].text(), "session refused", "already has a session from another program")
	f.online("web")
	if n := strings.Count(first.text(), "session with the controller"); n != 1 {
		t.Errorf("the original had %d sessions; the clone must not push it out", n)
	}
}
