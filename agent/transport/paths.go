package transport

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"weft/wire"
)

const (
	// shortLived is how soon a direct connection must break to be held
	// against its path.
	shortLived = time.Minute
	penaltyMax = 30 * time.Minute
	// provenFor is how long a probe's success lets a Dial wait for the
	// direct path.
	provenFor = 30 * time.Second
)

// paths remembers, for each peer, what is known of the direct path to it.
type paths struct {
	mu    sync.Mutex
	peers map[string]*peerPath // by SPIFFE id
}

type peerPath struct {
	proven  time.Time // when two probes in a row succeeded
	avoid   time.Time // no direct attempt before
	penalty time.Duration

	// The prober of the relayed connections to this peer.
	addresses []string
	relayed   map[*Conn]struct{}
	stop      context.CancelFunc
}

func (p *paths) get(id wire.Identity) *peerPath {
	key := id.String()
	pp := p.peers[key]
	if pp == nil {
		pp = &peerPath{relayed: map[*Conn]struct{}{}}
		p.peers[key] = pp
	}
	return pp
}

// forget drops what says nothing any more. mu is held.
func (p *paths) forget(id wire.Identity) {
	key := id.String()
	pp := p.peers[key]
	// A penalty is remembered as long again as it lasted, to double it.
	if pp != nil && len(pp.relayed) == 0 && pp.stop == nil && time.Since(pp.proven) > provenFor && time.Since(pp.avoid) > pp.penalty {
		delete(p.peers, key)
	}
}

func (p *paths) isProven(id wire.Identity) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	pp := p.peers[id.String()]
	return pp != nil && time.Since(pp.proven) < provenFor && time.Now().After(pp.avoid)
}

func (p *paths) avoided(id wire.Identity) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(id)
	pp := p.peers[id.String()]
	return pp != nil && time.Now().Before(pp.avoid)
}

// punish leaves the direct path to a peer alone for a while.
func (p *paths) punish(id wire.Identity, first time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pp := p.get(id)
	pp.penalty = min(max(2*pp.penalty, first), penaltyMax)
	pp.avoid = time.Now().Add(pp.penalty)
	pp.proven = time.Time{}
}

// opened watches how long a direct connection lives.
func (p *paths) opened(id wire.Identity, conn *Conn, cfg Config) {
	began := time.Now()
	conn.onClose = func(err error) {
		switch lived := time.Since(began); {
		case err != nil && lived < shortLived:
			p.punish(id, cfg.Penalty)
		case lived >= shortLived:
			p.mu.Lock()
			p.get(id).penalty = 0
			p.forget(id)
			p.mu.Unlock()
		}
	}
}

// watch probes the direct path to a peer for as long as a connection to it is
// relayed.
func (t *Transport) watch(id wire.Identity, addresses []string, conn *Conn) {
	p := &t.paths
	p.mu.Lock()
	defer p.mu.Unlock()
	pp := p.get(id)
	pp.addresses = addresses
	pp.relayed[conn] = struct{}{}
	conn.onClose = func(error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(pp.relayed, conn)
		if len(pp.relayed) == 0 && pp.stop != nil {
			pp.stop()
			pp.stop = nil
		}
		p.forget(id)
	}
	if pp.stop != nil {
		return
	}
	running, err := t.life.context()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(running)
	pp.stop = cancel
	if !t.life.start(func(context.Context) { t.probe(ctx, id, pp) }) {
		cancel()
		pp.stop = nil
	}
}

// probe tries the direct path until it answers twice in a row, and then closes
// the relayed connections.
func (t *Transport) probe(ctx context.Context, id wire.Identity, pp *peerPath) {
	for wait := t.cfg.ProbeFirst; ; wait = min(2*wait, t.cfg.ProbeMax) {
		t.paths.mu.Lock()
		pause := wait/2 + rand.N(wait/2+1)
		if left := time.Until(pp.avoid); left > pause {
			pause = left
		}
		t.paths.mu.Unlock()
		if sleep(ctx, pause) != nil {
			return
		}
		if !t.probeOnce(ctx, id, pp) {
			continue
		}
		if sleep(ctx, t.cfg.ProbeConfirm) != nil {
			return
		}
		if !t.probeOnce(ctx, id, pp) {
			continue
		}
		t.paths.mu.Lock()
		if ctx.Err() != nil {
			t.paths.mu.Unlock()
			return
		}
		pp.proven = time.Now()
		pp.stop = nil
		var relayed []*Conn
		for conn := range pp.relayed {
			relayed = append(relayed, conn)
		}
		t.paths.mu.Unlock()
		t.metrics.upgrades.Add(float64(len(relayed)))
		t.log.Info("direct path proven", "peer", id.Name, "relayed", len(relayed))
		for _, conn := range relayed {
			conn.closeFor(ErrBetterPath)
		}
		return
	}
}

func (t *Transport) probeOnce(ctx context.Context, id wire.Identity, pp *peerPath) bool {
	t.paths.mu.Lock()
	addresses := pp.addresses
	t.paths.mu.Unlock()
	for _, address := range addresses {
		conn, err := t.dialAddress(ctx, address, id, alpnProbe)
		if err == nil {
			conn.Close()
			return true
		}
		t.log.Debug("direct path probed in vain", "peer", id.Name, "address", address, "error", err)
	}
	return false
}
