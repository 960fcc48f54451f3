// Package bpf holds the tap's kernel programs and what turns a line into a
// loadable pair of them.
package bpf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

//go:generate go tool bpf2go -go-package bpf -target bpfel,bpfeb -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" tap tap.c

// Sizes of the maps; they are those of tap.c.
const (
	MaxLines     = 256
	MaxWorkloads = 1024
	MaxCapture   = 65664
	RecordHeader = 40
)

// MapNames are the maps that all lines share, in the order of tap.c.
var MapNames = []string{"ring", "ports", "own", "kernel_counts", "wakeups", "control", "user_counts", "lines", "workloads"}

// MapSpecs returns the shared maps as they must be made: unpinned, with the
// ring of the size given (a power of two and a multiple of the page size).
func MapSpecs(ringBytes int) (map[string]*ebpf.MapSpec, error) {
	spec, err := loadTap()
	if err != nil {
		return nil, fmt.Errorf("read the tap's programs: %w", err)
	}
	specs := make(map[string]*ebpf.MapSpec, len(MapNames))
	for _, name := range MapNames {
		m := spec.Maps[name]
		if m == nil {
			return nil, fmt.Errorf("read the tap's programs: no map %q", name)
		}
		specs[name] = m
	}
	specs["ring"].MaxEntries = uint32(ringBytes)
	return specs, nil
}

// Line is what the programs of one line are made for.
type Line struct {
	Slot    uint32
	Snaplen uint32
	// Filter is classic BPF for this link type; empty takes every frame.
	Filter []Instruction
	// Raw is set for interfaces whose frames begin with the IP header.
	Raw bool
}

// Pair is one line's programs.
type Pair struct {
	In, Out *ebpf.Program
}

// Close lets go of the programs; links keep them.
func (p *Pair) Close() error { return errors.Join(p.In.Close(), p.Out.Close()) }

// Load makes the pair for a line, working on the maps given.
func Load(line Line, maps map[string]*ebpf.Map) (*Pair, error) {
	spec, err := loadTap()
	if err != nil {
		return nil, fmt.Errorf("read the tap's programs: %w", err)
	}
	raw := uint32(0)
	if line.Raw {
		raw = 1
	}
	for name, value := range map[string]uint32{"line_slot": line.Slot, "snaplen": line.Snaplen, "raw_link": raw} {
		v := spec.Variables[name]
		if v == nil {
			return nil, fmt.Errorf("read the tap's programs: no variable %q", name)
		}
		if err := v.Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	if ring := maps["ring"]; ring != nil {
		spec.Maps["ring"].MaxEntries = ring.MaxEntries()
	}
	if len(line.Filter) > 0 {
		body, err := translate(line.Filter, line.Raw)
		if err != nil {
			return nil, err
		}
		for _, name := range []string{"weft_tap_in", "weft_tap_out"} {
			if err := inject(spec.Programs[name], body); err != nil {
				return nil, err
			}
		}
	}
	var progs struct {
		In  *ebpf.Program `ebpf:"weft_tap_in"`
		Out *ebpf.Program `ebpf:"weft_tap_out"`
	}
	if err := spec.LoadAndAssign(&progs, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return nil, fmt.Errorf("load the tap's programs: %w", err)
	}
	return &Pair{In: progs.In, Out: progs.Out}, nil
}

// inject puts body in place of weft_filter.
func inject(prog *ebpf.ProgramSpec, body asm.Instructions) error {
	if prog == nil {
		return errors.New("read the tap's programs: a program is missing")
	}
	from, to := -1, len(prog.Instructions)
	for i := range prog.Instructions {
		symbol := prog.Instructions[i].Symbol()
		switch {
		case symbol == filterSymbol:
			from = i
		case from >= 0 && to == len(prog.Instructions) && btf.FuncMetadata(&prog.Instructions[i]) != nil:
			to = i // the next function
		}
	}
	if from < 0 {
		return fmt.Errorf("read the tap's programs: no %s in %s", filterSymbol, prog.Name)
	}
	fresh := make(asm.Instructions, len(body))
	copy(fresh, body)
	fresh[0] = fresh[0].WithMetadata(prog.Instructions[from].Metadata)
	out := make(asm.Instructions, 0, len(prog.Instructions)+len(fresh))
	out = append(out, prog.Instructions[:from]...)
	out = append(out, fresh...)
	prog.Instructions = append(out, prog.Instructions[to:]...)
	return nil
}

// Digest names the programs: another digest, other programs.
func Digest() string {
	sum := sha256.Sum256(_TapBytes)
	return hex.EncodeToString(sum[:])
}
