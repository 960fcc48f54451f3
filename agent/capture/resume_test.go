package capture_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/model"
)

// A relay that restarts breaks every connection; nothing may be lost or come twice.
func TestCutConnectionsLoseNothing(t *testing.T) {
	need(t)
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	tool.grant(t, w, "uid/ids")
	c := newCapture(t, testreq.BPFFS(t), tool)
	runCapture(t, c)
	apply(t, w, c, captureLine("uid/ids", "c1"))
	connected(t, c)
	hush(t, c)
	source, landing := sniff(t, w.host, "v1"), sniff(t, w.tool, "weft0")

	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(150 * time.Millisecond):
				tool.cut()
			}
		}
	}()
	for range 3 {
		bulk(t, w.outside, w.c1, "10.8.0.2", 1<<20)
		w.c1.sh(t, "ping -q -f -c 200 -s 900 10.9.0.12")
	}
	close(stop)
	<-done
	settled(source)
	l := quiet(t, c, "uid/ids")
	settled(landing)
	compare(t, "weft0", source.end(), landing.end())
	if l.Delivered != l.Seen {
		t.Errorf("ledger %+v", l)
	}
}

// stalling is a tool's connection that stops reading while held.
type stalling struct {
	net.Conn
	held *atomic.Bool
}

func (s stalling) Read(b []byte) (int, error) {
	for s.held.Load() {
		time.Sleep(5 * time.Millisecond)
	}
	return s.Conn.Read(b)
}

func TestStalledToolShedsAndSlowsNobody(t *testing.T) {
	need(t)
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	var held atomic.Bool
	tool.mu.Lock()
	tool.wrap = func(c net.Conn) net.Conn { return stalling{c, &held} }
	tool.mu.Unlock()
	tool.grant(t, w, "uid/ids")
	c := newCapture(t, testreq.BPFFS(t), tool)
	runCapture(t, c)
	apply(t, w, c, captureLine("uid/ids", "c1"))
	connected(t, c)
	held.Store(true)

	began := time.Now()
	for range 8 {
		bulk(t, w.c2, w.c1, "10.9.0.12", 4<<20)
	}
	took := time.Since(began)
	eventually(t, "the ring to be read", func() bool {
		s := c.Lines()[0]
		return s.Ledger.Shed.Packets > 0
	})
	during := c.Lines()[0].Ledger
	t.Logf("32 MiB in %v while the tool stood still: %v", took, during)
	held.Store(false)
	l := quiet(t, c, "uid/ids")
	if l.Shed == (model.Count{}) || l.Delivered.Bytes < 6<<20 {
		t.Errorf("ledger %+v", l)
	}
	if l.RingDropped.Packets*10 > l.Seen.Packets { // some may go where this machine is busy
		t.Errorf("the ring was not read: %+v", l)
	}

	// The stream is whole again.
	hush(t, c)
	before := quiet(t, c, "uid/ids")
	source, landing := sniff(t, w.host, "v1"), sniff(t, w.tool, "weft0")
	w.c1.sh(t, "ping -q -f -c 50 10.9.0.12")
	settled(source)
	after := quiet(t, c, "uid/ids")
	settled(landing)
	compare(t, "weft0", source.end(), landing.end())
	if after.Shed != before.Shed {
		t.Error("still shedding")
	}
}
