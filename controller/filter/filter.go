// Package filter compiles pcap-filter(7) expressions with libpcap into classic
// BPF, which the agents translate for their kernel. It is the only room that
// needs cgo; the agent never imports it.
package filter

import (
	"fmt"
	"strings"
	"sync"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcap"

	"weft/wire/wirepb"
)

// MaxExpression bounds the length of an expression in bytes, MaxInstructions
// that of a compiled program: the kernel's own limit (BPF_MAXINSNS,
// linux/bpf_common.h).
const (
	MaxExpression   = 4096
	MaxInstructions = 4096
)

// accept is what an accepting program returns: the snapshot length that libpcap
// puts there. The agents look only at whether it is zero.
const accept = 262144

// dltRaw is DLT_RAW of pcap/dlt.h on Linux; libpcap takes that, not the 101 of
// capture files that layers.LinkTypeRaw holds.
const dltRaw layers.LinkType = 12

// Program is one expression for the two kinds of frames that a workload's
// devices carry: Ethernet, and raw IP (a tun device). An expression that can
// say nothing of raw IP ("ether src ...", "vlan") refuses all raw frames. The
// slices belong to the cache: read them only. An empty expression has none.
type Program struct {
	Ethernet []*wirepb.BPFInstruction
	Raw      []*wirepb.BPFInstruction
}

// cacheLimit bounds the cache; a fleet has a handful of expressions.
const cacheLimit = 1024

var cache = struct {
	sync.Mutex
	programs map[string]Program
}{programs: map[string]Program{}}

// Compile returns the programs of an expression, or an error that says what is
// wrong with it. Names of hosts are refused rather than looked up: a filter must
// not wait for a resolver, nor mean something else tomorrow.
func Compile(expr string) (Program, error) {
	expr = strings.TrimSpace(expr)
	if expr == "" {
		return Program{}, nil
	}
	cache.Lock()
	p, ok := cache.programs[expr]
	cache.Unlock()
	if ok {
		return p, nil
	}
	p, err := compile(expr)
	if err != nil {
		return Program{}, err
	}
	cache.Lock()
	defer cache.Unlock()
	if len(cache.programs) >= cacheLimit {
		clear(cache.programs)
	}
	cache.programs[expr] = p
	return p, nil
}

func compile(expr string) (Program, error) {
	if len(expr) > MaxExpression {
		return Program{}, fmt.Errorf("is %d bytes long; %d at most", len(expr), MaxExpression)
	}
	if err := checkWords(expr); err != nil {
		return Program{}, err
	}
	var p Program
	var err error
	if p.Ethernet, err = compileFor(layers.LinkTypeEthernet, expr); err != nil {
		return Program{}, fmt.Errorf("%q does not parse: %w; the grammar is pcap-filter(7), as tcpdump has it", expr, err)
	}
	if p.Raw, err = compileFor(dltRaw, expr); err != nil {
		p.Raw = []*wirepb.BPFInstruction{{Op: 0x06}} // ret #0
	}
	return p, nil
}

func compileFor(link layers.LinkType, expr string) ([]*wirepb.BPFInstruction, error) {
	code, err := pcap.CompileBPFFilter(link, accept, expr)
	if err != nil {
		return nil, err
	}
	if len(code) > MaxInstructions {
		return nil, fmt.Errorf("it compiles to %d instructions, and the kernel takes %d; make it shorter", len(code), MaxInstructions)
	}
	out := make([]*wirepb.BPFInstruction, len(code))
	for i, c := range code {
		out[i] = &wirepb.BPFInstruction{Op: uint32(c.Code), Jt: uint32(c.Jt), Jf: uint32(c.Jf), K: c.K}
	}
	return out, nil
}
