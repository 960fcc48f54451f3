package flow

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

// process is an agent's account that can be killed where a step is about to
// happen, and another that takes over from it.
type process struct {
	tb  testing.TB
	cfg Config
	f   *Flow
}

func newProcess(tb testing.TB) *process {
	tb.Helper()
	p := &process{tb: tb, cfg: Config{Dir: tb.TempDir(), PinDir: filepath.Join(testreq.BPFFS(tb), "flow"), Interval: time.Nanosecond}}
	p.start()
	return p
}

func (p *process) start() {
	p.tb.Helper()
	if p.f != nil && p.f.marks != nil {
		p.f.marks.ledger.close()
	}
	var err error
	if p.f, err = Open(p.cfg, Deps{}); err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() {
		if p.f.marks != nil {
			p.f.marks.ledger.close()
		}
	})
}

// killedWriting is a reading of the table that ends after the batch is written
// and after some of its marks are.
func (p *process) killedWriting(world *table, marks int) {
	p.tb.Helper()
	f := p.f
	f.Begin()
	for _, c := range world.lines {
		f.See(c)
	}
	if len(f.records) == 0 {
		return
	}
	b, err := flowwire.Encode(f.now, f.records)
	if err == nil {
		b, err = f.spool.add(b)
	}
	if err != nil {
		p.tb.Fatal(err)
	}
	for i, k := range f.touched {
		if i == marks {
			break
		}
		x := f.next[i]
		x.Batch = b.Number
		if err := f.marks.ledger.put([]key{k}, []mark{x}); err != nil {
			p.tb.Fatal(err)
		}
	}
}

// Whatever is killed when, and however often, what the controller gets adds up to
// what connections did: nothing twice, nothing left out.
func TestKilledAtAnyStep(t *testing.T) {
	p := newProcess(t)
	var world table
	var controller taken
	r := rand.New(rand.NewPCG(1, 2))
	truth := map[uint16]uint64{}
	for round := range 300 {
		for range r.IntN(20) {
			port, sent, received := uint16(1+r.IntN(30)), r.Uint64N(2000), r.Uint64N(2000)
			world.packet(port, sent, received)
			truth[port] += sent + received
		}
		switch r.IntN(6) {
		case 0:
			p.start() // killed between readings
		case 1:
			p.killedWriting(&world, 0)
			p.start()
		case 2:
			p.killedWriting(&world, r.IntN(10))
			p.start()
		case 3:
			p.killedWriting(&world, 1000) // all but the number
			p.start()
		default:
			world.show(t, p.f)
		}
		if r.IntN(3) == 0 {
			controller.take(t, p.f)
			if controller.after != nil && r.IntN(2) == 0 {
				p.f.Acknowledge(controller.after)
			}
		}
		for port := range world.lines { // some end, and their ports are used again
			if r.IntN(50) == 0 && round%2 == 0 {
				world.show(t, p.f)
				delete(world.lines, port)
			}
		}
	}
	world.show(t, p.f)
	controller.take(t, p.f)
	for port, want := range truth {
		if controller.bytes[port] != want {
			t.Errorf("port %d: %d bytes, want %d", port, controller.bytes[port], want)
		}
	}
	if controller.lost != 0 {
		t.Errorf("%d records lost", controller.lost)
	}
}

// A last batch that this agent cannot read is lost, and said; the account goes on.
func TestALastBatchOfAnotherFormat(t *testing.T) {
	p := newProcess(t)
	var world table
	var controller taken
	world.packet(1, 100, 0)
	world.show(t, p.f)
	controller.take(t, p.f)
	strange, err := p.f.spool.add(&wirepb.FlowBatch{Records: 2, Columns: []byte("of another agent")})
	if err != nil {
		t.Fatal(err)
	}
	p.start()
	world.packet(1, 10, 0)
	world.show(t, p.f)
	controller.after = &wirepb.FlowAck{Epoch: strange.Epoch, Number: strange.Number}
	controller.take(t, p.f)
	if controller.bytes[1] != 110 || controller.lost != 2 {
		t.Errorf("%d bytes and %d records lost, want 110 and 2", controller.bytes[1], controller.lost)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	p := newProcess(t)
	var world table
	world.packet(1, 1, 1)
	world.show(t, p.f)
	if err := Remove(p.cfg.PinDir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.cfg.PinDir); !os.IsNotExist(err) {
		t.Errorf("pins are left: %v", err)
	}
}

// Connections that do nothing cost no memory at a reading.
func TestAReadingAllocatesNothing(t *testing.T) {
	f := openFlow(t, t.TempDir(), time.Hour)
	var world table
	for port := range uint16(1000) {
		world.packet(port+1, 1, 1)
	}
	world.show(t, f)
	if n := testing.AllocsPerRun(10, func() {
		f.Begin()
		for _, c := range world.lines {
			f.See(c)
		}
		if err := f.End(true); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a reading in which nothing happened", n)
	}
}
