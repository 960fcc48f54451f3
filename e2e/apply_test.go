package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/lab/topology"
	"weft/model"
)

// tapOf writes a tap; rest is more of its spec, a line each.
func tapOf(name, from, to string, rest ...string) string {
	text := fmt.Sprintf("apiVersion: weft/v1\nkind: Tap\nmetadata: {name: %s}\nspec:\n  from: %s\n  to: %s\n", name, from, to)
	for _, line := range rest {
		text += "  " + line + "\n"
	}
	return text
}

const (
	fromWeb = `{selector: "app=web,workload.kind=host"}`
	toTool  = `{selector: "role=ids,workload.kind=host"}`
)

func TestWhatApplySays(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.agents("tool", "web")
	dir := t.TempDir()
	file := filepath.Join(dir, "tap.yaml")
	from := func(text string) result {
		f.write(file, text, 0o644)
		return f.weft("apply", "-f", file)
	}
	taps := func() string { return f.ok("get", "taps", "-o", "name") }

	t.Run("a fault is placed and nothing is written", func(t *testing.T) {
		for what, c := range map[string]struct{ text, says string }{
			"unknown field": {tapOf("bad", fromWeb, toTool, "snaplenn: 3"),
				file + `:7: spec.snaplenn: is not known (did you mean "snaplen"?)`},
			"value of a wrong type": {tapOf("bad", fromWeb, toTool, "snaplen: many"),
				file + `:7: spec.snaplen: is the text "many"; want a whole number`},
			"filter that does not parse": {tapOf("bad", fromWeb, toTool, `filter: "tcp port"`),
				file + `:7: spec.filter: `},
			"device name too long": {tapOf("bad", fromWeb, toTool, `deliver: {device: a-name-of-many-letters}`),
				file + `:7: spec.deliver.device: "a-name-of-many-letters" is no device name: 1 to 15`},
			"selector that does not parse": {tapOf("bad", `{selector: "app in web"}`, toTool),
				file + `:5: spec.from.selector: `},
			"both group and selector": {tapOf("bad", `{selector: "app=web", group: web}`, toTool),
				file + `:5: spec.from: give a selector or a group, not both`},
			"unknown kind": {strings.Replace(tapOf("bad", fromWeb, toTool), "kind: Tap", "kind: Tapp", 1),
				file + `:2: kind: Tapp is not known (did you mean "Tap"?)`},
			"no YAML":          {"a: [b\n", file + ":1: "},
			"a good one first": {tapOf("good", fromWeb, toTool) + "---\n" + tapOf("bad", fromWeb, toTool, "pausd: true"), file + ":14: spec.pausd: is not known"},
		} {
			r := from(c.text)
			if r.err == nil {
				t.Errorf("%s: apply succeeded: %s", what, r.stdout)
			}
			says(t, what, r.stderr, c.says, "1 fault; nothing was written")
		}
		if left := taps(); left != "" {
			t.Errorf("written all the same: %s", left)
		}
	})

	t.Run("dry run", func(t *testing.T) {
		r := f.weftIn(tapWeb, "apply", "-f", "-", "--dry-run")
		if want := "tap/web created: 1 workload on 1 host -> 1 tool (dry run)\n"; r.stdout != want || r.err != nil {
			t.Errorf("dry run printed %q, %v; want %q", r.stdout, r.err, want)
		}
		if left := taps(); left != "" {
			t.Errorf("the dry run wrote %s", left)
		}
	})

	t.Run("directory and standard input", func(t *testing.T) {
		many := t.TempDir()
		f.write(filepath.Join(many, "10-tap.yaml"), tapOf("in-dir", "{group: box}", toTool, "paused: true"), 0o644)
		f.write(filepath.Join(many, "20-group.yml"), "apiVersion: weft/v1\nkind: Group\nmetadata: {name: box}\nspec: {selector: app=box}\n", 0o644)
		f.write(filepath.Join(many, "README.txt"), "not for apply", 0o644)
		r := f.weft("apply", "-f", many)
		if want := "group/box created: 1 workload on 1 host\ntap/in-dir created: 1 workload on 1 host -> 1 tool, paused\n"; r.stdout != want || r.err != nil {
			t.Errorf("apply of a directory printed %q, %q; want %q", r.stdout, r.stderr, want)
		}
		if r := f.apply(tapOf("in-dir", "{group: box}", toTool, "paused: true")); r.stdout != "tap/in-dir unchanged\n" {
			t.Errorf("applying again printed %q, %q", r.stdout, r.stderr)
		}
		f.ok("delete", "tap", "in-dir")
		says(t, "empty directory", f.weft("apply", "-f", t.TempDir()).stderr, "holds no .yaml, .yml or .json file")
		says(t, "empty input", f.apply("").stderr, "stdin: no resource in it")
		says(t, "missing file", f.weft("apply", "-f", filepath.Join(many, "nosuch.yaml")).stderr, "nosuch.yaml: no such file")
	})

	t.Run("group that does not exist", func(t *testing.T) {
		r := f.apply(tapOf("lost", "{group: nosuch}", toTool))
		says(t, "apply", r.stderr, "warning: tap/lost: spec.from: group \"nosuch\" does not exist; `weft get groups` lists those that do")
		says(t, "the tap", f.reaches("lost", model.TapError, 2*time.Second).Status.Message, `group "nosuch" does not exist`)
		f.applied("apiVersion: weft/v1\nkind: Group\nmetadata: {name: nosuch}\nspec: {selector: 'app=web,workload.kind=host'}\n")
		f.reaches("lost", model.TapActive, 5*time.Second)
		r = f.weft("delete", "group", "nosuch")
		if r.err == nil {
			t.Error("a group in use was deleted")
		}
		says(t, "delete of a group in use", r.stderr, "group/nosuch is used by tap/lost; change or delete what uses it first")
		f.ok("delete", "tap", "lost")
	})

	t.Run("selector that matches nothing yet", func(t *testing.T) {
		r := f.apply(tapOf("later", `{selector: "app=later"}`, toTool))
		if r.stdout != "tap/later created: 0 workloads on 0 hosts -> 1 tool\n" {
			t.Errorf("apply printed %q", r.stdout)
		}
		says(t, "apply", r.stderr, `warning: tap/later: spec.from: "app=later" matches no workload now; those that come to match are tapped by themselves`)
		says(t, "the tap", f.reaches("later", model.TapPending, 2*time.Second).Status.Message, "spec.from matches no workload")
		if _, err := f.lab.Host("web").AddContainer(topology.Container{Name: "later", Labels: map[string]string{"app": "later"}}); err != nil {
			t.Fatal(err)
		}
		f.reaches("later", model.TapActive, 3*time.Second)
		f.ok("delete", "tap", "later")
	})

	t.Run("tool without an agent", func(t *testing.T) {
		r := f.apply(tapOf("nobody", fromWeb, `{selector: "role=nobody"}`))
		says(t, "apply", r.stderr, `warning: tap/nobody: spec.to: "role=nobody" matches no workload, so nothing is delivered`, "weft get workloads")
		says(t, "the tap", f.reaches("nobody", model.TapPending, 2*time.Second).Status.Message,
			"spec.to matches no host with an agent; give the tool's host the label, or install the agent there")
		f.ok("delete", "tap", "nobody")
	})

	t.Run("tool that is a container", func(t *testing.T) {
		r := f.apply(tapOf("boxed", fromWeb, `{selector: "app=box"}`))
		says(t, "apply", r.stderr, "web:box", "no hosts and cannot be tools", "add workload.kind=host")
		says(t, "the tap", f.reaches("boxed", model.TapError, 2*time.Second).Status.Message, "a tool is a machine with an agent: give the host the label")
		f.ok("delete", "tap", "boxed")
	})

	t.Run("two taps with one device", func(t *testing.T) {
		f.applied(tapWeb)
		r := f.apply(tapOf("second", `{selector: "app=box"}`, toTool))
		says(t, "apply", r.stderr, "warning: tap/second: ", "tap/web", "weft0", "spec.deliver.device")
		// Both work: whoever reads the device sees the packets of both.
		f.reaches("web", model.TapActive, 5*time.Second)
		f.reaches("second", model.TapActive, 5*time.Second)
		f.ok("delete", "tap", "second")
		// The device stays for the one that is left.
		time.Sleep(500 * time.Millisecond)
		f.reaches("web", model.TapActive, 5*time.Second)
		f.run(f.lab.Host("tool"), "ip", "link", "show", "weft0")
	})

	t.Run("stale write", func(t *testing.T) {
		var before []model.Tap
		if err := f.get(&before, "taps", "web"); err != nil {
			t.Fatal(err)
		}
		f.applied(tapOf("web", fromWeb, toTool, "snaplen: 100"))
		version := before[0].Metadata.ResourceVersion
		stale := strings.Replace(tapOf("web", fromWeb, toTool, "snaplen: 200"), "{name: web}", fmt.Sprintf("{name: web, resourceVersion: %q}", version), 1)
		r := f.apply(stale)
		if r.err == nil {
			t.Errorf("a stale write was taken: %s", r.stdout)
		}
		says(t, "stale write", r.stderr, "stdin:1: tap/web: changed meanwhile: it is at version", "yours is "+version, "get it again and repeat the change")
		now, err := f.tap("web")
		if err != nil || now.Spec.Snaplen != 100 {
			t.Errorf("after the stale write the tap is %+v, %v", now, err)
		}
	})

	t.Run("tool whose agent is away", func(t *testing.T) {
		f.ok("delete", "tap", "web")
		f.procs["tool"].end()
		f.wait(20*time.Second, "the tool is offline", func() error {
			h, err := f.host("tool")
			if err == nil && h.Status.State != model.HostOffline {
				err = fmt.Errorf("it is %s", h.Status.State)
			}
			return err
		})
		says(t, "apply", f.apply(tapWeb).stderr, "warning: tap/web: tool tool is offline", "until its agent is back")
		tap, err := f.tap("web")
		if err != nil || len(tap.Status.Tools) != 1 || tap.Status.Tools[0].State != "Offline" {
			t.Errorf("tap is %+v, %v; its tool should be Offline", tap, err)
		}
		f.startAgent("tool")
		f.reaches("web", model.TapActive, 15*time.Second)
	})
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
