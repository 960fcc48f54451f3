package e2e

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/geoip"
	"weft/internal/geoip/geoiptest"
	"weft/lab"
	"weft/model"
)

const talkers = `apiVersion: weft/v1
kind: Topology
metadata: {name: talkers}
spec:
  switches:
  - {name: net, subnet: 10.52.0.0/24}
  - {name: world, subnet: 203.0.113.0/24}
  routers:
  - {name: nat, uplink: world, downlinks: net, nat: port-restricted}
  hosts:
  - {name: site, attach: world}
  - {name: controller, attach: net}
  - {name: left, attach: net, labels: {app: left}}
  - name: right
    attach: net
    labels: {app: right}
    containers:
    - {name: one, labels: {app: one}}
    - {name: two, labels: {app: two}}
`

// flowSum is a line of weft flows --group-by … -o json.
type flowSum struct {
	Key         map[string]string
	Connections uint64
	Sent        model.Count
	Received    model.Count
	Drops       uint64
}

func (f *fleet) flows(by, where string) ([]flowSum, error) {
	out := f.weft("flows", "--group-by", by, "--where", where, "--top", "1000", "-o", "json")
	if out.err != nil {
		return nil, fmt.Errorf("%w: %s", out.err, out.stderr)
	}
	var list []flowSum
	return list, json.Unmarshal([]byte(out.stdout), &list)
}

// generate runs a helper to its end and returns what it says it has done.
func (f *fleet) generate(where lab.Runner, name string, args ...string) said {
	f.t.Helper()
	cmd := f.helperCommand(name, where, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		f.t.Fatalf("%s: %v: %s", name, err, errs.String())
	}
	var s said
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		f.t.Fatal(err)
	}
	return s
}

// metered waits until connections of these hosts are.
func (f *fleet) metered(hosts ...string) {
	f.t.Helper()
	for _, host := range hosts {
		f.wait(20*time.Second, host+" is metered", func() error {
			for _, pin := range f.pins(host) {
				if strings.HasSuffix(pin, "links/egress") { // the last that is attached
					return nil
				}
			}
			return errors.New("no program is at work")
		})
	}
}

func (s *said) add(o said) {
	s.Flows += o.Flows
	s.SentPackets, s.SentBytes = s.SentPackets+o.SentPackets, s.SentBytes+o.SentBytes
	s.ReceivedPackets, s.ReceivedBytes = s.ReceivedPackets+o.ReceivedPackets, s.ReceivedBytes+o.ReceivedBytes
}

// addUp waits until the flows that fulfil where come to what generators counted.
func (f *fleet) addUp(patience time.Duration, what, where string, want said) {
	f.t.Helper()
	f.wait(patience, what+" adds up", func() error {
		list, err := f.flows("client,server,host", where)
		if err != nil {
			return err
		}
		var got said
		for _, x := range list {
			got.add(said{x.Connections, x.Sent.Packets, x.Sent.Bytes, x.Received.Packets, x.Received.Bytes})
		}
		if want.SentPackets == 0 { // TCP: acknowledgements are the kernel's affair
			got = said{Flows: got.Flows}
		}
		if got != want {
			return fmt.Errorf("flows say %+v, the generator %+v: %+v", got, want, list)
		}
		return nil
	})
	f.t.Logf("%s: %+v", what, want)
}

// dropped sends to a port at which nobody listens, and finds the kernel's word for
// that: of the flows, and of the host.
func (f *fleet) dropped(at *lab.Host) {
	f.t.Helper()
	const datagrams = 5
	f.run(at, "bash", "-c", fmt.Sprintf("for i in $(seq %d); do echo x > /dev/udp/127.0.0.1/7099; done", datagrams))
	f.wait(20*time.Second, "datagrams for nobody are told of", func() error {
		list, err := f.flows("client,drop-reason", "drop-reason,port=7099")
		if err != nil {
			return err
		}
		if len(list) != 1 || list[0].Drops != datagrams || list[0].Connections != datagrams || list[0].Key["drop-reason"] != "NO_SOCKET" {
			return fmt.Errorf("flows say %+v", list)
		}
		if out := f.weft("describe", "host", at.Name); !strings.Contains(out.stdout, "NO_SOCKET") {
			return fmt.Errorf("the host says\n%s%s", out.stdout, out.stderr)
		}
		return nil
	})
	list, err := f.flows("tcp-state,client-flags", "port=7001,tcp-state=closed")
	if err != nil || len(list) == 0 || !strings.Contains(list[0].Key["client-flags"], "S") {
		f.t.Errorf("of TCP connections that are over: %+v, %v", list, err)
	}
}

// What flows say is what the generators of traffic counted, to the byte: between
// machines, over a container bridge and over loopback; while agents are killed and
// the controller is away. Short connections name their process and container.
func TestFlowsAddUp(t *testing.T) {
	f := newFleetFor(t, talkers, 3*time.Minute)
	places := filepath.Join(f.state(controllerHost), "places.mmdb")
	f.places(places, "NO")
	f.extra[controllerHost] = []string{"--geoip", places}
	f.controller()
	f.agents("left", "right")
	left, right := f.lab.Host("left"), f.lab.Host("right")
	one, two := right.Container("one"), right.Container("two")
	f.helper("right-answer", "answer", right, ":7000")
	f.helper("two-echo", "echo", two, "7001")
	f.helper("left-answer", "answer", left, "127.0.0.1:7002")
	f.helper("right-web", "serve", right)
	for _, server := range []struct {
		at   lab.Runner
		port string
	}{{right, ":7000"}, {two, ":7001"}, {left, ":7002"}} {
		f.wait(10*time.Second, "a server at "+server.port, func() error {
			if out := f.run(server.at, "ss", "-Hlnut"); !strings.Contains(out, server.port) {
				return errors.New("nobody listens")
			}
			return nil
		})
	}
	f.metered("left", "right")

	var across, loop, bridge said
	rightAddr, twoAddr := right.Addresses()[0], two.Address()
	rounds := 0
	round := func() {
		port := fmt.Sprint(20_000 + 1000*rounds)
		rounds++
		across.add(f.generate(left, "ask", fmt.Sprint(rightAddr, ":7000"), port, "1000"))
		loop.add(f.generate(left, "ask", "127.0.0.1:7002", port, "300"))
		bridge.add(f.generate(one, "call", fmt.Sprint(twoAddr, ":7001"), "1000"))
	}
	round()
	for range 3 { // killed while there is traffic, and at other moments of a reading
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, host := range []string{"left", "right"} {
				time.Sleep(150 * time.Millisecond)
				f.procs[host].kill()
				f.startAgent(host)
			}
		}()
		round()
		<-done
	}
	f.online("left", "right")
	f.procs[controllerHost].kill()
	round()
	f.controller()
	f.online("left", "right")
	round()

	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.weft("flows", "--group-by", "client,server,port,protocol,host").stdout)
		}
	})
	f.addUp(40*time.Second, "what crossed the net", "client=left,server=right,port=7000", across)
	f.addUp(40*time.Second, "loopback", "client=left,server=left,port=7002", loop)
	f.addUp(40*time.Second, "the bridge", "client=right:one,server=right:two,port=7001", bridge)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	list, err := f.flows("client,process", "server=right:two,port=7001")
	if err != nil {
		t.Fatal(err)
	}
	var named, all uint64
	for _, x := range list {
		all += x.Connections
		if x.Key["client"] == "right:one" && x.Key["process"] == self {
			named += x.Connections
		}
	}
	if all == 0 || float64(named) < 0.995*float64(all) {
		t.Errorf("%d of %d short connections name their container and process: %+v", named, all, list)
	}
	f.used(left, rightAddr.String())
	f.located(left, places)
	f.listed()
	f.dropped(left)
	t.Logf("%d of %d short connections name their container and process", named, all)
}

// places writes where the world of the lab is, and also its net, which is in no
// country, whatever a file says.
func (f *fleet) places(file, country string) {
	f.t.Helper()
	p := geoip.Place{Country: country, AS: 64500, Organization: "Example of Bergen"}
	if err := geoiptest.Write(file, map[string]geoip.Place{"203.0.113.0/24": p, "10.52.0.0/24": p}); err != nil {
		f.t.Fatal(err)
	}
}

// located asks where the world is, which is behind a NAT, and again when the file
// that says so is broken, and is another.
func (f *fleet) located(client lab.Runner, places string) {
	f.t.Helper()
	site := f.lab.Host("site")
	f.helper("site-web", "serve", site)
	address := site.Addresses()[0].String()
	fetched := func(country string) error {
		f.run(client, "curl", "-sS", "--max-time", "5", "-o", "/dev/null", "--retry", "5", "--retry-connrefused", "http://"+address+"/")
		list, err := f.flows("client,server-address,client-country,client-as,server-country,server-as", "country="+country)
		if err != nil {
			return err
		}
		want := map[string]string{"client": "left", "server-address": address, "client-country": "", "client-as": "", "server-country": country, "server-as": "AS64500 Example of Bergen"}
		if len(list) != 1 || !maps.Equal(list[0].Key, want) {
			return fmt.Errorf("%+v, want %v", list, want)
		}
		return nil
	}
	f.wait(30*time.Second, "the site is in Norway", func() error { return fetched("NO") })
	stale := func() bool { return strings.Contains(f.ok("get", "alerts"), "GeoIPStale:places.mmdb") }
	broken := places + ".broken"
	f.write(broken, "no MMDB", 0o600)
	if err := os.Rename(broken, places); err != nil {
		f.t.Fatal(err)
	}
	f.wait(30*time.Second, "a broken file is an alert", func() error {
		if !stale() {
			return errors.New("there is none")
		}
		return fetched("NO")
	})
	f.places(places, "SE")
	f.wait(30*time.Second, "the site has moved to Sweden", func() error { return fetched("SE") })
	if stale() {
		f.t.Error("a file that is well again is an alert still")
	}
	if list, err := f.flows("group", "server-as=64500,client=left"); err != nil || len(list) != 1 || list[0].Key["client-group"] != "" {
		f.t.Errorf("without groups: %+v, %v", list, err)
	}
	f.applied("apiVersion: weft/v1\nkind: Group\nmetadata: {name: lefts}\nspec: {selector: app=left}\n---\napiVersion: weft/v1\nkind: Group\nmetadata: {name: rights}\nspec: {selector: 'app=right,workload.kind=host'}\n")
	says(f.t, "a graph of groups", f.ok("flows", "graph", "--by", "group"), `"lefts" -> "rights"`, `"lefts" -> "(none)"`)
	says(f.t, "a graph of countries", f.ok("flows", "graph", "--by", "country"), `"(none)" -> "SE"`)
}

// listed asks for flows one by one, in each form, and as they come.
func (f *fleet) listed() {
	f.t.Helper()
	where := []string{"--where", "client=right:one,port=7001,reporter=client"}
	table := f.ok(append([]string{"flows", "--top", "3"}, where...)...)
	if lines := strings.Split(strings.TrimSpace(table), "\n"); len(lines) != 4 || !strings.Contains(lines[1], "tcp/7001") || !strings.Contains(lines[1], "e2e") {
		f.t.Errorf("weft flows:\n%s", table)
	}
	sheet, err := csv.NewReader(strings.NewReader(f.ok(append([]string{"flows", "--top", "3", "-o", "csv"}, where...)...))).ReadAll()
	if err != nil || len(sheet) != 4 || len(sheet[0]) != 44 {
		f.t.Errorf("weft flows -o csv: %v %v", sheet, err)
	}
	says(f.t, "a field with a typing error", f.weft("flows", "--group-by", "clinet").stderr, "none of these ends has the label clinet", "client, client-address")
	says(f.t, "an order that does not exist", f.weft("flows", "--group-by", "client", "--order", "speed").stderr, "bytes", "packets", "connections")
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	tail := exec.CommandContext(ctx, filepath.Join(f.bin, "weft"), "flows", "-f", "-o", "json", "--where", "port=7002,client-port=19999")
	tail.Env = append(os.Environ(), "WEFT_SERVER=unix://"+f.socket, "HOME="+f.state(controllerHost))
	tail.Cancel = func() error { return tail.Process.Signal(os.Interrupt) }
	out, err := os.Create(filepath.Join(f.t.TempDir(), "tail"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer out.Close()
	tail.Stdout = out
	if err := tail.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.generate(f.lab.Host("left"), "ask", "127.0.0.1:7002", "19999", "1")
	f.wait(20*time.Second, "weft flows -f shows what came meanwhile", func() error {
		if text, err := os.ReadFile(out.Name()); err != nil || !strings.Contains(string(text), `"port":19999`) {
			return fmt.Errorf("it says %q, %v", text, err)
		}
		return nil
	})
	cancel()
	_ = tail.Wait()
}

// used asks what connections were used for: a page is fetched whose address has
// somebody's number and a secret in it, and neither is kept.
func (f *fleet) used(client lab.Runner, server string) {
	f.t.Helper()
	f.run(client, "curl", "-sS", "--max-time", "5", "-o", "/dev/null", "-H", "Host: shop.example.com", "http://"+server+"/4711?token=sesame")
	f.wait(30*time.Second, "the page is among the flows", func() error {
		list, err := f.flows("server-name,method,path,status", "application=http,server=right,client=left,process=/usr/bin/curl")
		if err != nil {
			return err
		}
		if len(list) != 1 || list[0].Connections != 1 {
			return fmt.Errorf("%+v", list)
		}
		want := map[string]string{"server-name": "shop.example.com", "method": "GET", "path": "/{id}", "status": "200"}
		if !maps.Equal(list[0].Key, want) {
			return fmt.Errorf("%v, want %v", list[0].Key, want)
		}
		return nil
	})
	if out := f.ok("flows", "-o", "json", "--where", "application=http"); strings.Contains(out, "sesame") || strings.Contains(out, "4711") {
		f.t.Errorf("what a page was asked with is kept: %s", out)
	}
}
