package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weft/lab"
	"weft/lab/topology"
	"weft/model"
)

// checks are what "demo --once" shows beyond bringing the lab up.
func (d *demo) checks() []step {
	web1 := d.lab.Host("web-1")
	a := web1.Container("web-1a")
	b := web1.Container("web-1b")
	web2, app1, www := d.lab.Host("web-2"), d.lab.Host("app-1"), d.lab.Host("www")
	fetch := func(from lab.Runner, to string, bytes int) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := output(ctx, from, "curl", "-sS", "--fail", "--max-time", "30", "-o", "/dev/null", fmt.Sprintf("http://%s/%d", to, bytes))
			return err
		}
	}
	between := func(name string, at lab.Runner, device, other string, traffic func(context.Context) error) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			return d.compared(ctx, name, at, device, "tcp port 80 and host "+other, func() error { return traffic(ctx) })
		}
	}
	return []step{
		{name: "labels of clouds, containers and units are known", run: d.labelsKnown},
		{name: "a flow between two containers of one host arrives", run: between("containers", web1, a.HostDevice(), b.Address().String(),
			fetch(a, b.Address().String(), 1_000_000))},
		{name: "a flow between two hosts of a site arrives", run: between("site", web2, "eth0", app1.Addresses()[0].String(),
			fetch(web2, "app-1", 1_000_000))},
		{name: "a flow from the cloud to the internet arrives", run: between("internet", web2, "eth0", www.Addresses()[0].String(),
			fetch(web2, "www", 300_000))},
		{name: "a flow from a container to the internet arrives", run: between("container-internet", web1, a.HostDevice(), www.Addresses()[0].String(),
			fetch(a, www.Addresses()[0].String(), 300_000))},
		{name: "flows name both ends and the process of what was fetched", run: d.flowsKnown(fetch(a, b.Address().String(), 1_000_000))},
		{name: "the path is the relay, UDP being blocked", run: d.pathIsRelay},
		{name: "the relay has seen no plain text", run: d.relayIsBlind},
		{name: "ledger balances", run: d.balanced},
		{name: "a host started later is on the tap within 2 s", run: d.laterHost},
		{name: "a container started later is on the tap within 2 s", run: d.laterContainer},
		{name: "ledger balances after a source's agent is killed with -9", run: d.killSource},
		{name: "ledger balances after the tool's agent is killed with -9", run: d.killTool},
		{name: "ledger balances after a relay restart", run: d.restartRelay},
		{name: "taps go on while the controller is away", run: d.restartController},
		{name: "filter and snaplen work", run: d.filterAndSnaplen},
		{name: "deleting the tap stops the copies within 1 s and leaves no kernel object", run: d.deleteTap},
	}
}

// flowsKnown asks who fetched the megabyte that went from one container to another.
// A tap is at work before connections are metered, for which programs are loaded
// meanwhile: it is fetched again until it is there.
func (d *demo) flowsKnown(fetch func(context.Context) error) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		return retry(ctx, 30*time.Second, func() (string, error) {
			if err := fetch(ctx); err != nil {
				return "", err
			}
			return retry(ctx, 5*time.Second, func() (string, error) { return d.whoFetched(ctx) })
		})
	}
}

func (d *demo) whoFetched(ctx context.Context) (string, error) {
	text, err := d.weft(ctx, "flows", "--group-by", "client,server,port,process", "--where", "client=web-1:web-1a,server=web-1:web-1b,port=80", "-o", "json")
	if err != nil {
		return "", err
	}
	var sums []struct {
		Key      map[string]string
		Received model.Count
	}
	if err := json.Unmarshal([]byte(text), &sums); err != nil {
		return "", fmt.Errorf("read flows: %w", err)
	}
	for _, x := range sums {
		if x.Received.Bytes > 1_000_000 && filepath.Base(x.Key["process"]) == "curl" {
			return fmt.Sprintf("%s, %s by %s", x.Key["client"], x.Key["server"], x.Key["process"]), nil
		}
	}
	return "", fmt.Errorf("not there yet: %s", text)
}

func (d *demo) labelsKnown(ctx context.Context) (string, error) {
	var all []model.Workload
	return retry(ctx, 10*time.Second, func() (string, error) {
		if err := d.get(ctx, &all, "workloads"); err != nil {
			return "", err
		}
		want := map[string][2]string{"web-2": {"cloud.provider", "aws"}, "web-1:web-1a": {"cloud.provider", "aws"}, "app-2": {"cloud.provider", "gcp"}, "app-1:orders": {"tier", "api"}}
		for _, w := range all {
			if l, ok := want[w.Metadata.Name]; ok && w.Metadata.Labels[l[0]] == l[1] {
				delete(want, w.Metadata.Name)
			}
		}
		if len(want) > 0 {
			return "", fmt.Errorf("missing: %v", want)
		}
		return fmt.Sprintf("%d workloads", len(all)), nil
	})
}

// balanced checks every path's account in two reports in a row, with nothing
// in flight: agents report once a second. The tap need not be silent for it; on
// a whole machine there is always an ARP request or a connection attempt.
func (d *demo) balanced(ctx context.Context) (string, error) {
	return retry(ctx, 20*time.Second, func() (string, error) {
		var l model.Ledger
		for range 2 {
			time.Sleep(1100 * time.Millisecond)
			tap, err := d.tap(ctx)
			if err != nil {
				return "", err
			}
			for _, p := range tap.Status.Paths {
				if err := p.Ledger.Check(); err != nil {
					return "", fmt.Errorf("%s to %s: %w", p.Host, p.Tool, err)
				}
				if n := p.Ledger.InFlight.Packets; n != 0 {
					return "", fmt.Errorf("%s to %s: %d packets are in flight", p.Host, p.Tool, n)
				}
			}
			l = tap.Status.Ledger
		}
		return fmt.Sprintf("seen %d = delivered %d + deduplicated %d + filtered %d + lost %d", l.Seen.Packets, l.Delivered.Packets, l.Deduplicated.Packets,
			l.Filtered.Packets, l.Shed.Packets+l.RingDropped.Packets+l.PathDropped.Packets), nil
	})
}

func (d *demo) pathIsRelay(ctx context.Context) (string, error) {
	tap, err := d.tap(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range tap.Status.Paths {
		if p.Path != "relay" {
			return "", fmt.Errorf("%s reaches %s by %q", p.Host, p.Tool, p.Path)
		}
	}
	return fmt.Sprintf("%d paths", len(tap.Status.Paths)), nil
}

// relayIsBlind records what crosses the relay while a request with a known text
// is tapped, and looks for the text: it must be at the tool, and not here.
func (d *demo) relayIsBlind(ctx context.Context) (string, error) {
	atRelay, err := d.record(ctx, d.lab.Host(relayName), "eth0", "relay", "tcp port 443")
	if err != nil {
		return "", err
	}
	atTool, err := d.record(ctx, d.lab.Host("ids"), "weft0", "relay-tool", "tcp port 80")
	if err != nil {
		return "", err
	}
	const marker = "weft-demo-marker"
	if _, err := output(ctx, d.lab.Host("web-2"), "curl", "-sS", "-H", "X-Marker: "+marker, "-o", "/dev/null", "http://www/5000"); err != nil {
		return "", err
	}
	if _, err := d.balanced(ctx); err != nil {
		return "", err
	}
	tool, err := atTool.stop()
	if err != nil {
		return "", err
	}
	relay, err := atRelay.stop()
	if err != nil {
		return "", err
	}
	if !tool.Contains(marker) {
		return "", errors.New("the tool did not see the marked request: nothing is shown")
	}
	if relay.Contains(marker) {
		return "", errors.New("the relay's network shows the tapped text")
	}
	return fmt.Sprintf("%d frames searched", len(relay.Frames)), nil
}

// arrives measures how long after start a packet of the address shows on weft0.
func (d *demo) arrives(ctx context.Context, filter string, limit time.Duration, start, send func() error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := d.lab.Host("ids").Command(ctx, "tcpdump", "-Z", "root", "-nl", "-i", "weft0", "-c", "1", filter)
	if err := cmd.Start(); err != nil {
		return "", err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	time.Sleep(500 * time.Millisecond) // tcpdump opens its socket
	began := time.Now()
	if err := start(); err != nil {
		return "", err
	}
	for {
		select {
		case err := <-done:
			took := time.Since(began)
			if err == nil && took > limit {
				err = fmt.Errorf("took %s, at most %s is good", took.Round(time.Millisecond), limit)
			}
			return took.Round(10 * time.Millisecond).String(), err
		case <-time.After(50 * time.Millisecond):
			if err := send(); err != nil && ctx.Err() == nil {
				continue // the network of a starting machine
			}
		}
	}
}

func (d *demo) laterHost(ctx context.Context) (string, error) {
	const name = "web-3"
	if err := d.lab.StartHost(name); err != nil {
		return "", err
	}
	h := d.lab.Host(name)
	if _, err := d.token(ctx, h.StateDir()); err != nil {
		return "", err
	}
	return d.arrives(ctx, "icmp and host "+h.Addresses()[0].String(), 2*time.Second, func() error {
		_, err := d.startAgent(ctx, h)
		return err
	}, func() error {
		_, err := output(ctx, h, "ping", "-c", "1", "-W", "1", "app-1")
		return err
	})
}

func (d *demo) laterContainer(ctx context.Context) (string, error) {
	h := d.lab.Host("web-1")
	var c *lab.Container
	detail, err := d.arrives(ctx, "icmp and host 172.17.0.77", 2*time.Second, func() (err error) {
		c, err = h.AddContainer(topology.Container{Name: "web-1c", Labels: map[string]string{"app": "web"}, Address: topology.Addr{Addr: netip.MustParseAddr("172.17.0.77")}})
		return err
	}, func() error {
		_, err := output(ctx, c, "ping", "-c", "1", "-W", "1", "172.17.0.1")
		return err
	})
	if err != nil {
		return detail, err
	}
	return detail, h.RemoveContainer("web-1c")
}

func (d *demo) filterAndSnaplen(ctx context.Context) (string, error) {
	manifest := strings.Replace(demoFiltered, "DEVICE", "weft0", 1)
	path := filepath.Join(d.work, "filtered.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o644); err != nil {
		return "", err
	}
	if _, err := d.weft(ctx, "apply", "-f", path); err != nil {
		return "", err
	}
	if _, err := d.tapActive(ctx); err != nil {
		return "", err
	}
	time.Sleep(500 * time.Millisecond)
	rec, err := d.record(ctx, d.lab.Host("ids"), "weft0", "filtered", "host 203.0.113.80")
	if err != nil {
		return "", err
	}
	web2 := d.lab.Host("web-2")
	for _, argv := range [][]string{{"curl", "-sS", "-o", "/dev/null", "http://www/50000"}, {"ping", "-c", "3", "-i", "0.2", "www"}} {
		if _, err := output(ctx, web2, argv...); err != nil {
			return "", err
		}
	}
	if _, err := d.balanced(ctx); err != nil {
		return "", err
	}
	capture, err := rec.stop()
	if err != nil {
		return "", err
	}
	if n := len(capture.Frames); n < 30 {
		return "", fmt.Errorf("%d frames arrived; of 50,000 bytes at least 30 are due", n)
	}
	for _, f := range capture.Frames {
		if f.Length > 96 {
			return "", fmt.Errorf("a frame of %d bytes arrived; the tap cuts at 96", f.Length)
		}
		if len(f.Data) > 23 && f.Data[23] != 6 {
			return "", fmt.Errorf("a packet of protocol %d arrived; the filter takes TCP", f.Data[23])
		}
	}
	tap, err := d.tap(ctx)
	if err != nil {
		return "", err
	}
	if tap.Status.Ledger.Filtered.Packets == 0 {
		return "", errors.New("the ledger shows nothing filtered")
	}
	return fmt.Sprintf("%d frames of at most %d bytes, %d packets filtered", len(capture.Frames), capture.Longest(), tap.Status.Ledger.Filtered.Packets), nil
}

const demoFiltered = `apiVersion: weft/v1
kind: Tap
metadata: {name: web-to-ids}
spec:
  from: {group: web}
  to: {group: ids}
  filter: "tcp port 80"
  snaplen: 96
  deliver: {device: DEVICE}
`

func (d *demo) deleteTap(ctx context.Context) (string, error) {
	began := time.Now()
	if _, err := d.weft(ctx, "delete", "tap", demoTap); err != nil {
		return "", err
	}
	return retry(ctx, 5*time.Second, func() (string, error) {
		if left := d.kernelObjects(ctx); len(left) > 0 {
			return "", fmt.Errorf("still there: %s", strings.Join(left, ", "))
		}
		took := time.Since(began)
		if took > time.Second {
			return "", fmt.Errorf("took %s, at most 1s is good", took.Round(time.Millisecond))
		}
		return took.Round(time.Millisecond).String(), nil
	})
}

// kernelObjects lists what a tap leaves in the kernels of the lab's hosts: pins,
// but for those of metering, which goes on, and landing devices.
func (d *demo) kernelObjects(ctx context.Context) []string {
	var left []string
	for _, h := range d.machines() {
		filepath.WalkDir(h.BPFDir(), func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() && slices.Contains([]string{"policy", "flow"}, e.Name()) {
				return filepath.SkipDir
			}
			// maps.debug and progs.debug are the file system's own.
			if err == nil && !e.IsDir() && !strings.HasSuffix(path, ".debug") {
				left = append(left, h.Name+":"+filepath.Base(path))
			}
			return nil
		})
	}
	if out, err := output(ctx, d.lab.Host("ids"), "ip", "-br", "link"); err == nil && strings.Contains(out, "weft0") {
		left = append(left, "ids:weft0")
	}
	return left
}
