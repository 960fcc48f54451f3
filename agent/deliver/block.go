package deliver

import (
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"weft/internal/tchook"
)

// Attach is how the program that blocks the host's own stack is held on a
// landing device.
type Attach string

// The ways to attach.
const (
	// AttachAuto tries tcx, then clsact.
	AttachAuto Attach = "auto"
	// AttachTCX is a tcx link (kernel 6.6 and later).
	AttachTCX Attach = "tcx"
	// AttachClsact is a direct-action filter on a clsact qdisc.
	AttachClsact Attach = "clsact"
)

// blockName is the filter's name, and lastPriority what lets every other filter
// that somebody puts on the device see the frame first: ours ends the chain.
const (
	blockName    = "weft:land"
	lastPriority = 0xffff
)

// blockStack keeps this host's own network stack from taking what arrives on
// the device as its own: packet sockets (tcpdump, an IDS) see a frame before tc
// ingress does, the stack after it. A tcx link lives as long as the agent, the
// only one who feeds the device; a filter as long as the device, which is ours.
//
// The device is ours, so nothing is spoiled by just trying, and no feature
// test is asked.
func blockStack(ifindex int, attach Attach) (io.Closer, error) {
	const shot = 2 // TC_ACT_SHOT
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "weft_land", Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, shot), asm.Return()}})
	if err != nil {
		return nil, fmt.Errorf("load a program: %w", err)
	}
	defer prog.Close()
	if attach != AttachClsact {
		l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: ebpf.AttachTCXIngress})
		if err == nil || attach == AttachTCX {
			return l, err
		}
	}
	return nil, blockByFilter(ifindex, prog)
}

func blockByFilter(ifindex int, prog *ebpf.Program) error {
	table, err := tchook.Scan(blockName)
	if err != nil {
		return err
	}
	hook := tchook.Hook{Ifindex: ifindex}
	if _, there := table.Find(hook, blockName); there {
		return nil
	}
	_, err = table.Add(hook, blockName, lastPriority, prog)
	return err
}
