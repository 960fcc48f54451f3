package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"weft/internal/testreq"
	"weft/wire"
	"weft/wire/wirepb"

	"golang.org/x/sys/unix"
)

func TestAgentReportsWholeThenDifferences(t *testing.T) {
	r := newRig(t).open()
	r.start()
	c := r.c
	eventually(t, 5*time.Second, "first report", c.get(func() bool { return len(c.updates) == 1 && c.facts != nil }))
	if u := c.updates[0]; !u.Full || len(u.Upserts) != 1 {
		t.Errorf("first report: %v", u)
	}
	r.inv.set("host", "c1")
	eventually(t, time.Second, "addition", c.get(func() bool { return len(c.updates) == 2 }))
	if u := c.updates[1]; u.Full || len(u.Upserts) != 1 || u.Upserts[0].Id != "c1" || len(u.Deletes) != 0 {
		t.Errorf("addition: %v", u)
	}
	r.inv.set("host")
	eventually(t, time.Second, "removal", c.get(func() bool { return len(c.updates) == 3 }))
	if u := c.updates[2]; u.Full || len(u.Upserts) != 0 || len(u.Deletes) != 1 || u.Deletes[0] != "c1" {
		t.Errorf("removal: %v", u)
	}
}

// Labels that are not known yet, told of too early, would be labels that went.
func TestAgentReportsNoIncompleteInventory(t *testing.T) {
	r := newRig(t).open()
	r.inv.complete = make(chan struct{})
	r.start()
	c := r.c
	c.send <- capture("d1")
	eventually(t, 5*time.Second, "applied", c.applied("capture", "d1"))
	r.inv.set("host", "c1")
	c.send <- capture("d2")
	eventually(t, 5*time.Second, "applied again", c.applied("capture", "d2"))
	if !c.get(func() bool { return len(c.updates) == 0 && c.facts == nil })() {
		t.Errorf("told before it was complete: %v, %v", c.facts, c.updates)
	}
	close(r.inv.complete)
	eventually(t, 5*time.Second, "first report", c.get(func() bool { return len(c.updates) == 1 && c.facts != nil }))
	if u := c.updates[0]; !u.Full || len(u.Upserts) != 2 {
		t.Errorf("first report: %v", u)
	}
}

func TestAgentLivesThroughAPartition(t *testing.T) {
	r := newRig(t).open()
	r.start()
	c := r.c
	c.send <- capture("d1")
	eventually(t, 5*time.Second, "applied", c.applied("capture", "d1"))
	c.stop()
	eventually(t, 5*time.Second, "disconnected", func() bool { return !r.agent.Status().Connected })
	before := r.capture.count()
	time.Sleep(700 * time.Millisecond) // longer than the longest pause
	if r.capture.count() == before {
		t.Error("the section was not looked after while the controller was away")
	}
	c.start()
	eventually(t, 3*time.Second, "connected again", func() bool { return r.agent.Status().Connected })
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.hello.Sections) != 1 || c.hello.Sections[0].Digest != "d1" {
		t.Errorf("hello names %v, want capture d1", c.hello.Sections)
	}
}

// A controller that keeps the connection and says nothing is as good as gone.
func TestAgentLeavesASilentController(t *testing.T) {
	r := newRig(t).open()
	r.c.mute = true
	r.start()
	eventually(t, 10*time.Second, "a second session", r.c.get(func() bool { return r.c.sessions >= 2 }))
	if !strings.Contains(r.agent.Status().Error, "silent") && r.agent.Status().Error != "" {
		t.Errorf("status: %+v", r.agent.Status())
	}
}

func TestAgentAppliesLastKnownGoodWithoutAController(t *testing.T) {
	r := newRig(t).open()
	r.start()
	r.c.send <- capture("d1")
	eventually(t, 5*time.Second, "applied", r.c.applied("capture", "d1"))
	r.stop()
	r.c.stop()
	r.capture = &reconciler{}
	r.open()
	r.start()
	eventually(t, time.Second, "applied from disk", func() bool { return r.capture.count() > 0 && r.capture.seen[0] == "d1" })
}

// Nothing is written to the kernel before there is a section from somewhere.
func TestAgentTouchesNothingBeforeASection(t *testing.T) {
	r := newRig(t).open()
	r.start()
	eventually(t, 5*time.Second, "connected", func() bool { return r.agent.Status().Connected })
	r.inv.set("host", "c1")
	time.Sleep(400 * time.Millisecond)
	if n := r.capture.count(); n != 0 {
		t.Errorf("reconciler called %d times without a section", n)
	}
}

func TestFullDiskIsAConditionAndTheAgentGoesOn(t *testing.T) {
	r := newRig(t).open()
	full := true
	write := r.state.write
	r.state.write = func(path string, data []byte) error {
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		if full {
			return errDisk
		}
		return write(path, data)
	}
	r.start()
	r.c.send <- capture("d1")
	eventually(t, 5*time.Second, "applied", r.c.applied("capture", "d1"))
	has := func() bool {
		for _, cond := range r.c.facts.GetConditions() {
			if cond.Type == ConditionStateNotSaved && strings.Contains(cond.Message, "no space left") && strings.Contains(cond.Message, r.dir) {
				return true
			}
		}
		return false
	}
	eventually(t, 5*time.Second, "condition reported", r.c.get(has))
	r.c.get(func() bool { full = false; return true })()
	eventually(t, 5*time.Second, "condition over", r.c.get(func() bool { return !has() }))
	if _, err := os.Stat(filepath.Join(r.dir, "sections", "capture")); err != nil {
		t.Errorf("section not kept once there was room: %v", err)
	}
}

// The same with a file system that is really full.
func TestFullFileSystem(t *testing.T) {
	testreq.Need(t, testreq.Root)
	r := newRig(t)
	if err := unix.Mount("tmpfs", r.dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(r.dir, unix.MNT_DETACH) })
	r.open()
	if err := os.WriteFile(filepath.Join(r.dir, "ballast"), make([]byte, 60<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	s := capture("d1")
	s.GetCapture().Lines[0].Filter = strings.Repeat("x", 32<<10)
	r.c.send <- s
	eventually(t, 5*time.Second, "applied", r.c.applied("capture", "d1"))
	eventually(t, 5*time.Second, "condition reported", r.c.get(func() bool { return len(r.c.facts.GetConditions()) == 1 }))
	left, _ := filepath.Glob(filepath.Join(r.dir, "sections", ".new-*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	r.stop()
}

func TestReconcilerIsRetriedAndTheErrorReported(t *testing.T) {
	r := newRig(t).open()
	r.capture.do = func(_ context.Context, n int) error {
		if n < 3 {
			return errors.New("device busy")
		}
		return nil
	}
	r.start()
	r.c.send <- capture("d1")
	eventually(t, 5*time.Second, "error reported", r.c.get(func() bool { return r.c.status["capture"].GetError() == "device busy" }))
	eventually(t, 10*time.Second, "applied at last", r.c.applied("capture", "d1"))
}

// While one version is being applied three more come: only the last is applied.
func TestLatestSectionWins(t *testing.T) {
	r := newRig(t).open()
	started, release := make(chan struct{}), make(chan struct{})
	r.capture.do = func(ctx context.Context, n int) error {
		if n == 1 {
			close(started)
			<-release
		}
		return nil
	}
	r.start()
	r.c.send <- capture("d1")
	<-started
	for _, d := range []string{"d2", "d3", "d4"} {
		r.c.send <- capture(d)
	}
	eventually(t, 5*time.Second, "all received", func() bool {
		r.agent.applier.mu.Lock()
		defer r.agent.applier.mu.Unlock()
		return r.agent.applier.desired["capture"].GetDigest() == "d4"
	})
	close(release)
	eventually(t, 5*time.Second, "last applied", r.c.applied("capture", "d4"))
	for _, d := range r.capture.seen {
		if d == "d2" || d == "d3" {
			t.Errorf("applied %v, want d1 and d4 alone", r.capture.seen)
		}
	}
}

func TestUnknownSectionIsAnError(t *testing.T) {
	r := newRig(t).open()
	r.start()
	r.c.send <- &wirepb.Section{Name: "segment", Digest: "x"}
	eventually(t, 5*time.Second, "error", r.c.get(func() bool { return strings.Contains(r.c.status["segment"].GetError(), "upgrade") }))
}

func TestOffsetIsThatOfTheControllersClock(t *testing.T) {
	r := newRig(t).open()
	r.c.ahead = 3 * time.Hour
	r.start()
	eventually(t, 5*time.Second, "offset", func() bool { return (r.agent.Offset()-3*time.Hour).Abs() < time.Second && r.agent.Offset() != 0 })
}

func TestPutOutAgentEmptiesItsSections(t *testing.T) {
	r := newRig(t).open()
	r.start()
	r.c.send <- capture("d1")
	eventually(t, 5*time.Second, "applied", r.c.applied("capture", "d1"))
	err := connect.NewError(connect.CodePermissionDenied, errors.New("host is revoked"))
	err.Meta().Set(wire.HeaderReason, wire.ReasonRevoked)
	r.c.get(func() bool { r.c.refuse = err; return true })()
	r.c.stop()
	r.c.start()
	eventually(t, 5*time.Second, "emptied", func() bool {
		r.capture.mu.Lock()
		defer r.capture.mu.Unlock()
		return r.capture.seen[len(r.capture.seen)-1] == ""
	})
	if left, _ := filepath.Glob(filepath.Join(r.dir, "sections", "*")); len(left) != 0 {
		t.Errorf("last-known-good state left: %v", left)
	}
}

func TestLinesAreSentWhenTheyChange(t *testing.T) {
	r := newRig(t).open()
	r.lines = &wirepb.LineReport{Lines: []*wirepb.LineStatus{{Line: "l", State: "Connected"}}}
	r.start()
	eventually(t, 5*time.Second, "one report", r.c.get(func() bool { return r.c.lines == 1 }))
	time.Sleep(1500 * time.Millisecond)
	if r.c.get(func() bool { return r.c.lines != 1 })() {
		t.Error("the same report was sent again")
	}
}

func TestStateOfDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := OpenState(dir); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("second open: %v", err)
	}
	if err := s.Save(capture("d1")); err != nil {
		t.Fatal(err)
	}
	good, _ := os.ReadFile(filepath.Join(dir, "sections", "capture"))
	for name, data := range map[string][]byte{"empty": nil, "cut": good[:len(good)-1], "zeros": make([]byte, 100), "transport": good} {
		if err := os.WriteFile(filepath.Join(dir, "sections", name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sections, faults := s.Sections()
	if len(sections) != 1 || sections[0].Digest != "d1" || len(faults) != 4 {
		t.Errorf("sections %v, faults %v", sections, faults)
	}
	if err := s.Save(&wirepb.Section{Name: "../../etc/passwd"}); err == nil {
		t.Error("a section's name may leave the directory")
	}
}

func FuzzDecodeSection(f *testing.F) {
	good, _ := encodeSection(capture("d"))
	f.Add(good)
	f.Add([]byte("weftLKG1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeSection(data)
		if err != nil {
			return
		}
		if _, err := encodeSection(s); err != nil {
			t.Errorf("decoded and not encoded: %v", err)
		}
	})
}
