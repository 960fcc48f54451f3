package recording

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/bpf"
	"google.golang.org/protobuf/proto"

	"weft/agent/recording/ring"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

const (
	// ahead is how much is read ahead to know whose packets are, which is written behind
	// them.
	ahead = 4 << 20
	// arrived and settled are how long after the end of the time that is asked for it
	// is waited for packets that are still on their way to the ring, and for word of
	// whose they are.
	arrived = 300 * time.Millisecond
	settled = 4 * time.Second
	// pastNumbers are those of workloads in what rings have kept; a line's own are less.
	pastNumbers = 1 << 16
	maxNames    = 4096
	// breath is how long it reads without a pause, which is as long.
	breath = 20 * time.Millisecond
)

// past reads what rings have kept, for one recording.
type past struct {
	pieces   chan pastPiece // closed at the end
	cancel   context.CancelFunc
	over     bool      // of the recording's goroutine: it has ended,
	ended    time.Time // then
	message  string    // what there is to say, once it has ended
	from, to int64
	left     *room

	numbers       map[string]uint32 // of workloads that are asked for
	ethernet, raw *bpf.VM           // nil takes every packet
	snaplen       int
	rings         []*pastRing
	decoder       tapstream.Decoder
	encoder       tapstream.Encoder
	processes     []*wirepb.CaptureProcess
	found         bool // packets of a workload that is asked for
	said          time.Time
}

// pastPiece is some of it, or says only how far it is.
type pastPiece struct {
	batch     []byte
	processes []*wirepb.CaptureProcess
	through   int64 // nothing earlier follows
}

// pastRing is one ring that is read.
type pastRing struct {
	cursor *ring.Cursor
	ahead  int
	queue  []pastBatch
	held   int
	known  int64
	names  map[uint32]string // changed as a whole
	end    bool
	tell   []*wirepb.CaptureProcess
}

type pastBatch struct {
	first, last int64
	batch       []byte
	names       map[uint32]string
}

// newPast prepares the reading of packets between two moments.
func newPast(o *wirepb.CaptureOrder, left *room, from, to time.Time) (*past, error) {
	p := &past{pieces: make(chan pastPiece), cancel: func() {}, from: from.UnixNano(), to: to.UnixNano(), left: left, numbers: map[string]uint32{}, snaplen: int(o.GetLine().GetSnaplen())}
	for i, id := range o.GetLine().GetWorkloads() {
		p.numbers[id] = pastNumbers + uint32(i)
	}
	var err1, err2 error
	p.ethernet, err1 = machine(o.GetLine().GetFilterEthernet())
	p.raw, err2 = machine(o.GetLine().GetFilterRaw())
	return p, errors.Join(err1, err2)
}

// machine runs a filter.
func machine(program []*wirepb.BPFInstruction) (*bpf.VM, error) {
	if len(program) == 0 {
		return nil, nil
	}
	raw := make([]bpf.RawInstruction, len(program))
	for i, x := range program {
		if x.GetOp() > 0xffff || x.GetJt() > 0xff || x.GetJf() > 0xff {
			return nil, errors.New("an instruction of the filter is out of range")
		}
		raw[i] = bpf.RawInstruction{Op: uint16(x.GetOp()), Jt: uint8(x.GetJt()), Jf: uint8(x.GetJf()), K: x.GetK()}
	}
	list, _ := bpf.Disassemble(raw)
	vm, err := bpf.NewVM(list)
	if err != nil {
		return nil, fmt.Errorf("read the filter: %w", err)
	}
	return vm, nil
}

// read reads to the end, or until ctx ends.
func (p *past) read(ctx context.Context, keepers []*keeper, now func() time.Time) {
	defer close(p.pieces)
	first := int64(0)
	for _, k := range keepers {
		r := &pastRing{cursor: k.ring.Read(p.from), ahead: ahead / len(keepers)}
		defer r.cursor.Close()
		p.rings = append(p.rings, r)
		if at, _, _ := k.ring.Span(); at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	switch {
	case len(keepers) == 0:
		p.message = "no ring keeps packets on this host; a tap with spec.ring makes one"
		return
	case first == 0:
		p.message = "the ring is empty"
	case first > p.from:
		p.message = "the ring reaches back to " + time.Unix(0, first).UTC().Format(time.RFC3339)
	}
	defer func() {
		if !p.found && first != 0 {
			p.message = "no ring here has packets of these workloads and of this time"
		}
	}()
	began := time.Now()
	for ctx.Err() == nil && p.left.packets > 0 && p.left.bytes > 0 {
		// What is there now is all there is, or was waited for long enough?
		at := now().Add(-arrived).UnixNano()
		final := at > p.to && (at-int64(settled) > p.to || !slices.ContainsFunc(keepers, func(k *keeper) bool { return !k.settled() }))
		r, through := p.earliest(final)
		if r == nil {
			if final {
				break
			}
			if !p.say(ctx, min(p.to, at, through)) {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(sayEvery):
			}
			for _, r := range p.rings {
				r.end = false
			}
			continue
		}
		// A ring may be large: the search takes half of one processor, and leaves the rest
		// to who lives here.
		if busy := time.Since(began); busy > breath {
			select {
			case <-ctx.Done():
			case <-time.After(min(busy, 2*breath)): // some of it may have been waiting
			}
			began = time.Now()
		}
		b := r.queue[0]
		r.queue, r.held = r.queue[1:], r.held-len(b.batch)
		p.processes, r.tell = append(p.processes, r.tell...), nil
		if !p.one(ctx, b) {
			return
		}
	}
	p.flush(ctx, 0)
	damaged := 0
	for _, r := range p.rings {
		damaged += r.cursor.Damaged
	}
	if damaged > 0 {
		p.message = strings.TrimPrefix(fmt.Sprintf("%s; %d segments of the ring are damaged, and were read as far as they are not", p.message, damaged), "; ")
	}
}

// earliest is the ring whose next packets are the earliest, and before when nothing
// more comes; nil where there are none, or is not known yet whose they are, unless it
// will not be.
func (p *past) earliest(final bool) (out *pastRing, through int64) {
	through = math.MaxInt64
	for _, r := range p.rings {
		r.fill(p.from, p.to)
		if len(r.queue) > 0 && r.queue[0].first-1 < through {
			out, through = r, r.queue[0].first-1
		}
	}
	if out != nil && !final && out.queue[0].last > out.known && out.held < out.ahead {
		return nil, through
	}
	return out, through
}

// fill reads on until it is known whose the next packets are.
func (r *pastRing) fill(from, to int64) {
	var piece wirepb.CapturePiece
	for !r.end && (len(r.queue) == 0 || r.queue[0].last > r.known && r.held < r.ahead) {
		b, err := r.cursor.Next()
		if errors.Is(err, io.EOF) {
			r.end = true
			return
		}
		if err != nil || proto.Unmarshal(b.Payload, &piece) != nil {
			continue // the cursor counts what is damaged; what has the right checksum was written so
		}
		if len(piece.GetNames()) > 0 {
			r.names = maps.Clone(r.names)
			if r.names == nil || len(r.names) > maxNames {
				r.names = map[uint32]string{}
			}
			for _, n := range piece.GetNames()[:min(len(piece.GetNames()), maxNames)] {
				r.names[n.GetNumber()] = n.GetWorkload()
			}
		}
		if n := len(piece.GetProcesses()); n > 0 && len(r.tell)+n <= maxTuples {
			r.tell = append(r.tell, piece.GetProcesses()...)
		}
		r.known = max(r.known, piece.GetThroughUnixNanos())
		if len(piece.GetBatch()) > 0 && b.Last >= from && b.First <= to {
			r.queue, r.held = append(r.queue, pastBatch{b.First, b.Last, piece.GetBatch(), r.names}), r.held+len(piece.GetBatch())
		}
		piece.Reset()
	}
}

// one takes of a batch what was asked for. False: there is nobody to take it.
func (p *past) one(ctx context.Context, b pastBatch) bool {
	batch, err := tapstream.ParseBatch(b.batch)
	if err == nil {
		err = p.decoder.Open(batch)
	}
	var r tapstream.Record
	for err == nil {
		var ok bool
		if ok, err = p.decoder.Next(&r); !ok || err != nil {
			break
		}
		number, wanted := p.numbers[b.names[r.Workload]]
		p.found = p.found || wanted
		if !wanted || r.Time < p.from || r.Time > p.to || !p.matches(&r) {
			continue
		}
		if p.snaplen > 0 {
			r.Data = r.Data[:min(len(r.Data), p.snaplen)]
		}
		if p.left.packets == 0 || p.left.bytes < uint64(len(r.Data)) {
			p.left.bytes = 0
			break
		}
		r.Workload = number
		if !p.encoder.Add(&r) {
			if !p.flush(ctx, b.first-1) {
				return false
			}
			p.encoder.Add(&r)
		}
		p.left.packets--
		p.left.bytes -= uint64(len(r.Data))
	}
	if p.encoder.Size() >= tapstream.SealAt/2 {
		return p.flush(ctx, b.first-1)
	}
	return p.say(ctx, b.first-1)
}

func (p *past) matches(r *tapstream.Record) bool {
	vm := p.ethernet
	if r.Flags&tapstream.FlagRaw != 0 {
		if vm = p.raw; vm == nil && p.ethernet != nil {
			return false // the filter is about what these have not
		}
	}
	if vm == nil {
		return true
	}
	n, err := vm.Run(r.Data)
	return err == nil && n > 0
}

// say hands on what there is, and how far it is, once in a while.
func (p *past) say(ctx context.Context, through int64) bool {
	if time.Since(p.said) < sayEvery {
		return ctx.Err() == nil
	}
	return p.flush(ctx, through)
}

// flush hands on what there is.
func (p *past) flush(ctx context.Context, through int64) bool {
	out := pastPiece{through: through}
	if p.encoder.Len() > 0 {
		out.batch = p.encoder.Seal(nil, 1)[tapstream.HeaderLen:]
		out.processes, p.processes = p.processes, nil
	}
	select {
	case p.pieces <- out:
		p.said = time.Now()
		return true
	case <-ctx.Done():
		return false
	}
}
