package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/model"
)

// small mounts a small file system at dir, for as long as the lab.
func (f *fleet) small(dir string, megabytes int) {
	f.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := unix.Mount("weft-e2e", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", megabytes)); err != nil {
		f.t.Fatal(err)
	}
	// The lab's own unmounting takes it along; this is for a test that fails before.
	f.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill leaves no byte of a file system free, and returns what frees it again.
func (f *fleet) fill(dir string) (free func()) {
	f.t.Helper()
	path := filepath.Join(dir, "ballast")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for data := make([]byte, size); ; {
			n, err := file.Write(data)
			if err != nil || n < size {
				break
			}
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bavail > 0 {
		f.t.Fatalf("%s has %d blocks free, %v", dir, st.Bavail, err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			f.t.Error(err)
		}
	}
}

// condition finds a condition of a host; "" where it has none of the type.
func (f *fleet) condition(host, typ string) (string, error) {
	h, err := f.host(host)
	if err != nil {
		return "", err
	}
	for _, c := range h.Status.Conditions {
		if c.Type == typ {
			return c.Message, nil
		}
	}
	return "", nil
}

// An agent whose disk is full cannot keep what it is told, and says so; it does
// it all the same.
func TestFullDiskOfAnAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.small(f.agentDir("web"), 1)
	f.agents("tool", "web")
	free := f.fill(f.agentDir("web"))
	f.applied(tapWeb)
	f.reaches("web", model.TapActive, 5*time.Second)
	var message string
	f.wait(5*time.Second, "the host reports it", func() (err error) {
		if message, err = f.condition("web", "StateNotSaved"); err == nil && message == "" {
			err = fmt.Errorf("no condition")
		}
		return err
	})
	says(t, "the condition", message, "keep section capture", "no space left on device", "the agent works on", "free space in "+f.agentDir("web"))
	says(t, "describe host", f.ok("describe", "host", "web"), "StateNotSaved")
	// It can even be started so. What it has on disk is older: no tap.
	f.procs["web"].kill()
	f.startAgent("web")
	f.online("web")
	f.reaches("web", model.TapActive, 5*time.Second)
	free()
	f.applied(tapOf("web", fromWeb, toTool, "snaplen: 96"))
	f.wait(5*time.Second, "the condition is over", func() error {
		message, err := f.condition("web", "StateNotSaved")
		if err == nil && message != "" {
			err = fmt.Errorf("still: %s", message)
		}
		return err
	})
	if _, err := os.Stat(filepath.Join(f.agentDir("web"), "sections", "capture")); err != nil {
		t.Errorf("the section is not kept: %v", err)
	}
}

// A controller whose disk is full refuses writes, and reads on; agents work on.
// Whatever it acknowledged is there when there is space again.
func TestFullDiskOfTheController(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	data := filepath.Join(f.state(controllerHost), "controller")
	f.small(data, 400) // etcd's log takes 64 MiB ahead, twice; a write asks for 96 more
	f.controller()
	f.agents("tool", "web")
	f.applied(tapWeb)
	f.reaches("web", model.TapActive, 5*time.Second)
	work := f.work("spare", "web", 2000, 20*time.Millisecond)
	group := func(n int) string {
		return fmt.Sprintf("apiVersion: weft/v1\nkind: Group\nmetadata: {name: g%d, annotations: {text: %q}}\nspec: {selector: app=web}\n", n, strings.Repeat("x", 60_000))
	}
	acknowledged := 0
	write := func() result {
		r := f.apply(group(acknowledged))
		if r.err == nil {
			acknowledged++
		}
		return r
	}
	for range 20 {
		if r := write(); r.err != nil {
			t.Fatalf("refused with space to spare: %s", r.stderr)
		}
	}
	free := f.fill(data)
	for range 3 {
		refused := write()
		if refused.err == nil {
			t.Fatal("a write was taken with no byte free")
		}
		says(t, "the refusal", refused.stderr, "create group/g20: the disk is full: "+data+" has 0 MiB free and a write needs 96; nothing was changed, agents work on: free space there and repeat")
	}
	says(t, "a token that cannot be made", f.weft("token", "create").stderr, "the disk is full")
	says(t, "reading", f.ok("get", "groups", "-o", "name"), "g19")
	if err := f.procs[controllerHost].alive(); err != nil {
		t.Fatal(err)
	}
	// An agent that comes back now is let in.
	f.procs["web"].kill()
	f.startAgent("web")
	f.online("web")
	f.reaches("web", model.TapActive, 10*time.Second)

	// The workload and the tap do not notice.
	time.Sleep(time.Second)
	was := f.received("tool", "weft0")
	time.Sleep(time.Second)
	if now := f.received("tool", "weft0"); now == was {
		t.Errorf("no packets arrive while the controller's disk is full: %s", now)
	}
	// It can be started so, too.
	f.procs[controllerHost].kill()
	f.controller()
	f.online("tool", "web")
	free()
	if r := write(); r.err != nil {
		t.Errorf("refused with space to spare: %s", r.stderr)
	}
	var groups []model.Group
	if err := f.get(&groups, "groups"); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, g := range groups {
		have[g.Metadata.Name] = true
	}
	for n := range acknowledged {
		if !have[fmt.Sprintf("g%d", n)] {
			t.Errorf("group g%d was acknowledged and is lost", n)
		}
	}
	f.online("tool", "web")
	f.reaches("web", model.TapActive, 10*time.Second)
	work.unharmed()
}
