package capture_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/agent/capture"
	"weft/internal/testreq"
	"weft/model"
	"weft/wire/wirepb"
)

// The test binary is also the agent that is killed: with this variable set to
// "BPFDIR SOCKET" it taps c1 in the namespace it was started in until it dies.
const childEnv = "WEFT_CAPTURE_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		child(strings.Fields(args))
	}
	os.Exit(m.Run())
}

func child(args []string) {
	die := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
	}
	c, err := capture.New(capture.Config{BPFDir: args[0], RingBytes: 4 << 20, Attach: way()}, capture.Deps{
		Log: logger(&testing.T{}), Dial: func(ctx context.Context, _ string, _ *wirepb.Peer) (capture.Conn, error) {
			return dialUnix(ctx, args[1])
		}})
	die(err)
	go c.Run(context.Background(), func() {})
	_, err = c.Apply(context.Background(), &wirepb.CaptureSection{Lines: []*wirepb.CaptureLine{captureLine("uid/ids", "c1")}}, workloads)
	die(err)
	select {}
}

// startChild starts it; kill ends it with SIGKILL.
func startChild(t testing.TB, w *world, dir string, tool *toolSide) (kill func()) {
	t.Helper()
	cmd := exec.Command("nsenter", "--net=/run/netns/"+string(w.host), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir+" "+tool.listener.Addr().String())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := false
	kill = func() {
		if !dead {
			dead = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(kill)
	return kill
}

func TestLedgerBalancesAfterKills(t *testing.T) {
	need(t)
	eachWay(t, ledgerBalancesAfterKills)
}

func ledgerBalancesAfterKills(t *testing.T) {
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	tool.grant(t, w, "uid/ids")
	dir := testreq.BPFFS(t)
	landing := sniff(t, w.tool, "weft0")
	source := sniff(t, w.host, "v1")

	// Traffic goes on for the whole test; agents come and are killed in the midst.
	flood := w.c1.cmd("exec ping -q -i 0.002 -s 600 10.9.0.12 >/dev/null")
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	stopFlood := func() {
		flood.Process.Kill()
		flood.Wait()
	}
	t.Cleanup(stopFlood)
	for i := range 4 {
		kill := startChild(t, w, dir, tool)
		eventually(t, "the tap", func() bool { return attached(t, w.host, "v1") == 2 })
		time.Sleep(time.Duration(300+37*i) * time.Millisecond)
		kill()
		time.Sleep(100 * time.Millisecond)
		if attached(t, w.host, "v1") != 2 {
			t.Fatal("the tap went with its agent")
		}
	}
	stopFlood()
	seenAtSource := source.count()

	c := newCapture(t, dir, tool)
	runCapture(t, c)
	apply(t, w, c, captureLine("uid/ids", "c1"))
	hush(t, c) // the namespaces' own chatter is tapped too
	l := quiet(t, c, "uid/ids")
	settled(landing)
	t.Logf("%d at the source, %d arrived, ledger %+v", seenAtSource, landing.count(), l)
	if l.Delivered.Packets != uint64(landing.count()) {
		t.Errorf("ledger says %d delivered, %d arrived", l.Delivered.Packets, landing.count())
	}
	if l.Delivered.Packets == 0 || l.Delivered.Packets+l.PathDropped.Packets+l.RingDropped.Packets+l.Shed.Packets != l.Seen.Packets {
		t.Errorf("ledger %+v", l)
	}
	// The landing first: the tap goes on, and what comes to the one after the
	// other has ended (an ARP request, seconds after the flood) would be extra.
	arrived := landing.end()
	compareSubset(t, "weft0", source.end(), arrived)
	// What a kill can lose is what one agent held: some milliseconds of traffic.
	if l.PathDropped.Packets*5 > l.Seen.Packets {
		t.Errorf("%d of %d packets lost by four kills", l.PathDropped.Packets, l.Seen.Packets)
	}
	if l.Shed != (model.Count{}) {
		t.Errorf("shed %+v", l.Shed)
	}
	removeEverything(t, w, c, tool)
}
