package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/engines"
	"weft/internal/testreq"
	"weft/lab"
	"weft/lab/frames"
	"weft/model"
)

// podman starts a Podman of the host's own, and has the host's agent ask it.
func (f *fleet) podman(host string) engines.Podman {
	f.t.Helper()
	p := engines.NewPodman(f.t)
	argv := p.Argv()
	proc := f.launch("podman", f.lab.Host(host).Command(f.ctx, argv...))
	f.t.Cleanup(proc.kill) // it holds the namespaces, and is deaf to anything else
	p.Wait(f.t)
	p.Import(f.t, "web:1")
	config := filepath.Join(f.state(host), "agent.yaml")
	f.write(config, fmt.Sprintf("controller: https://controller:443\ndockerSockets: [%s]\ncontainerdSocket: \"-\"\n", p.Socket), 0o600)
	f.extra[host] = append(f.extra[host], "--config", config)
	return p
}

// dump is a tcpdump that runs in the lab.
type dump struct {
	f *fleet
	p *process
	// path of the file, of which every packet is written at once.
	path string
}

func (f *fleet) dump(name string, at lab.Runner, device, filter string) *dump {
	f.t.Helper()
	d := &dump{f: f, path: filepath.Join(f.lab.Dir(), name+".pcap")}
	d.p = f.start("dump-"+name, at, "tcpdump", "-Z", "root", "-U", "-s", "0", "--immediate-mode", "-B", "16384", "-ni", device, "-w", d.path, filter)
	f.wait(5*time.Second, "tcpdump listens", func() error {
		if err := d.p.alive(); err != nil {
			f.t.Fatal(err)
		}
		if !strings.Contains(d.p.text(), "listening on") {
			return fmt.Errorf("it says %q", d.p.text())
		}
		return nil
	})
	return d
}

func (d *dump) read() *frames.Capture {
	d.f.t.Helper()
	c, err := frames.Read(d.path)
	if err != nil {
		d.f.t.Fatal(err)
	}
	return c
}

func (d *dump) end() *frames.Capture {
	d.f.t.Helper()
	d.p.signal(syscall.SIGINT)
	<-d.p.done
	if !strings.Contains(d.p.text(), "\n0 packets dropped by kernel") {
		d.f.t.Errorf("tcpdump: %s", d.p.tail(4))
	}
	return d.read()
}

// workloadOf waits until the controller knows a workload by its name.
func (f *fleet) workloadOf(name string, ok func(*model.Workload) bool) *model.Workload {
	f.t.Helper()
	var found *model.Workload
	f.wait(3*time.Second, "workload "+name, func() error {
		var all []*model.Workload
		if err := f.get(&all, "workloads"); err != nil {
			return err
		}
		for _, w := range all {
			if w.Metadata.Name == name && ok(w) {
				found = w
				return nil
			}
		}
		return fmt.Errorf("there is none, or not yet as it shall be")
	})
	return found
}

// What two Podman containers say to one another arrives at the tool packet for
// packet; a container that is made anew is tapped again within two seconds.
func TestTapOfPodmanContainers(t *testing.T) {
	testreq.Need(t, engines.Needs...)
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	p := f.podman("web")
	f.agents("tool", "web")

	serve := func(name string, more ...string) string {
		t.Helper()
		args := append([]string{"run", "--detach", "--name", name, "--label", "app=shop"}, more...)
		return p.Run(t, append(args, "localhost/web:1", "httpd", "-f", "-p", "80", "-h", "/www")...)
	}
	tapped := func(w *model.Workload) bool { return len(w.Spec.Interfaces) == 1 && len(w.Spec.Addresses) == 1 }
	id := serve("server", "--publish", "8080:80")
	p.Run(t, "run", "--detach", "--name", "client", "localhost/web:1", "sleep", "1000")
	server := f.workloadOf("web:server", tapped)
	if c := server.Spec.Container; c.ID != id || c.Image != "localhost/web:1" || c.Runtime != "podman" {
		t.Errorf("the controller knows the container as %+v", c)
	}
	f.applied(tapOf("shop", `{selector: "app=shop,workload.kind=container"}`, toTool))
	f.reaches("shop", model.TapActive, 10*time.Second)

	fetch := func(address string) error {
		_, err := p.Try("exec", "client", "timeout", "2", "wget", "-q", "-O", "/dev/null", "http://"+address+"/page")
		return err
	}
	f.wait(5*time.Second, "the server answers", func() error { return fetch(server.Spec.Addresses[0]) })
	f.balanced("shop")
	const filter = "tcp port 80"
	source, tool := f.dump("source", f.lab.Host("web"), server.Spec.Interfaces[0], filter), f.dump("tool", f.lab.Host("tool"), "weft0", filter)
	for range 5 {
		if err := fetch(server.Spec.Addresses[0]); err != nil {
			t.Fatal(err)
		}
	}
	// From another machine too, through the published port.
	f.run(f.lab.Host("spare"), "curl", "-sS", "--fail", "--max-time", "5", "-o", "/dev/null", fmt.Sprintf("http://%s:8080/page", f.lab.Host("web").Addresses()[0]))
	f.balanced("shop")
	want, got := source.end(), tool.end()
	if diff := frames.Diff(want, got); len(diff) > 0 || len(got.Frames) < 100 {
		t.Errorf("%d frames at the tool, %d differences, among them %q", len(got.Frames), len(diff), diff[:min(len(diff), 4)])
	}
	t.Logf("%d frames arrived, packet for packet", len(got.Frames))

	for _, how := range []struct {
		name string
		do   func()
	}{
		{"killed and started again", func() {
			p.Run(t, "kill", "server")
			p.Run(t, "wait", "server")
			p.Run(t, "start", "server")
		}},
		{"removed and made anew", func() { p.Run(t, "rm", "--force", "--time", "0", "server"); serve("server") }},
	} {
		again := f.dump("again", f.lab.Host("tool"), "weft0", filter)
		how.do()
		began := time.Now()
		address := p.Run(t, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", "server")
		for len(again.read().Frames) == 0 {
			if time.Since(began) > 2*time.Second {
				t.Fatalf("%s: not on the tap within 2 s", how.name)
			}
			_ = fetch(address) // the server may not serve yet
		}
		t.Logf("%s: on the tap after %s", how.name, time.Since(began).Round(time.Millisecond))
		again.end()
		os.Remove(again.path)
	}

	// The members of a pod share a device: it is tapped once, and all is well.
	p.Run(t, "pod", "create", "--name", "pod", "--share-parent=false", "--infra-image", "localhost/web:1", "--infra-command", "/bin/sleep 1000")
	serve("one", "--pod", "pod")
	p.Run(t, "run", "--detach", "--name", "two", "--pod", "pod", "--label", "app=shop", "localhost/web:1", "sleep", "1000")
	f.workloadOf("web:one", tapped)
	f.workloadOf("web:two", tapped)
	f.wait(5*time.Second, "three are tapped", func() error {
		tap, err := f.tap("shop")
		if err == nil && (len(tap.Status.Sources) != 3 || tap.Status.State != model.TapActive) {
			err = fmt.Errorf("tap is %s: %s %+v", tap.Status.State, tap.Status.Message, tap.Status.Sources)
		}
		return err
	})

	// A container on the host's network cannot be tapped, which is said.
	serve("outside", "--network", "host")
	f.workloadOf("web:outside", func(w *model.Workload) bool { return w.Metadata.Labels["container.network"] == "host" })
	f.wait(5*time.Second, "the tap refuses it", func() error {
		tap, err := f.tap("shop")
		if err != nil {
			return err
		}
		for _, s := range tap.Status.Sources {
			if s.Workload == "web:outside" && s.State == "Error" && strings.Contains(s.Message, "has the host's network") && strings.Contains(s.Message, "tap the host") {
				return nil
			}
		}
		return fmt.Errorf("tap is %s: %s %+v", tap.Status.State, tap.Status.Message, tap.Status.Sources)
	})
}
