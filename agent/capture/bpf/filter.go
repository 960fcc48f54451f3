package bpf

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf/asm"
)

// Instruction is one of classic BPF: struct sock_filter of linux/filter.h.
type Instruction struct {
	Op     uint16
	Jt, Jf uint8
	K      uint32
}

// maxFilter bounds a filter so that its translation keeps within 16-bit jumps.
const maxFilter = 1024

// Fields of struct __sk_buff (linux/bpf.h).
const (
	skbLen         = 0
	skbVLANPresent = 20
	skbVLANTCI     = 24
	skbVLANProto   = 28
)

// Where the translation keeps things. The head is the first 20 bytes of the
// frame as the wire has it, and only filled where the kernel keeps the VLAN tag
// beside the frame.
const (
	regCtx   = asm.R6
	regA     = asm.R7
	regX     = asm.R8
	regShift = asm.R9 // bytes the frame lacks after byte 12: 0 or 4

	stackMem  = -64
	stackLoad = -72
	stackHead = -104
)

const filterSymbol = "weft_filter"

// translate turns a classic program into the body of weft_filter. It reads the
// frame with bpf_skb_load_bytes, not by direct access, for two reasons: headers
// and payload may lie outside the linear part of the buffer, and a VLAN tag that
// the kernel took out of the frame must be seen where pcap-filter expects it.
// As in the kernel's classic machine (Documentation/networking/filter.rst) a load
// beyond the frame and a division by zero end the program with 0.
func translate(prog []Instruction, raw bool) (asm.Instructions, error) {
	if err := check(prog); err != nil {
		return nil, err
	}
	t := &translator{prog: prog, raw: raw}
	t.prologue()
	live := reachable(prog)
	for i, ins := range prog {
		if !live[i] {
			continue // the verifier refuses dead code
		}
		t.label = label(i)
		if err := t.one(i, ins); err != nil {
			return nil, fmt.Errorf("filter instruction %d: %w", i, err)
		}
	}
	if !slices.ContainsFunc(t.out, func(ins asm.Instruction) bool { return ins.Reference() == "reject" }) {
		return t.out, nil
	}
	t.label = "reject"
	t.add(asm.Mov.Imm(asm.R0, 0), asm.Return())
	return t.out, nil
}

type translator struct {
	prog  []Instruction
	raw   bool
	out   asm.Instructions
	label string // of the next instruction
	n     int    // local labels drawn
}

func label(i int) string { return fmt.Sprintf("cbpf_%d", i) }

func (t *translator) local() string {
	t.n++
	return fmt.Sprintf("local_%d", t.n)
}

func (t *translator) add(list ...asm.Instruction) {
	for _, ins := range list {
		if t.label != "" {
			ins = ins.WithSymbol(t.label)
			t.label = ""
		}
		t.out = append(t.out, ins)
	}
}

func (t *translator) prologue() {
	t.add(
		asm.Mov.Reg(regCtx, asm.R1),
		asm.Mov.Imm(regA, 0),
		asm.Mov.Imm(regX, 0),
		asm.Mov.Imm(regShift, 0),
	)
	for off := int16(stackHead); off < 0; off += 8 {
		t.add(asm.StoreMem(asm.RFP, off, regA, asm.DWord))
	}
	if t.raw {
		return
	}
	start := label(0)
	t.add(asm.LoadMem(asm.R0, regCtx, skbVLANPresent, asm.Word), asm.JEq.Imm(asm.R0, 0, start), asm.Mov.Imm(regShift, 4))
	t.loadBytes(0, stackHead, 12)
	t.loadBytes(12, stackHead+16, 4)
	t.add(
		asm.LoadMem(asm.R0, regCtx, skbVLANProto, asm.Word), // network order already
		asm.StoreMem(asm.RFP, stackHead+12, asm.R0, asm.Half),
		asm.LoadMem(asm.R0, regCtx, skbVLANTCI, asm.Word),
		asm.HostTo(asm.BE, asm.R0, asm.Half),
		asm.StoreMem(asm.RFP, stackHead+14, asm.R0, asm.Half),
	)
}

// loadBytes copies size bytes at a constant offset to the stack.
func (t *translator) loadBytes(off int32, stack int32, size int32) {
	t.add(asm.Mov.Imm(asm.R2, off))
	t.call(stack, size)
}

// call copies size bytes at the offset in R2 to the stack, or rejects.
func (t *translator) call(stack, size int32) {
	t.add(
		asm.Mov.Reg(asm.R1, regCtx),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, stack),
		asm.Mov.Imm(asm.R4, size),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "reject"),
	)
}

// plain loads size bytes at the offset in R2 of the kernel's frame into R0.
func (t *translator) plain(size int32) {
	t.call(stackLoad, size)
	switch size {
	case 1:
		t.add(asm.LoadMem(asm.R0, asm.RFP, stackLoad, asm.Byte))
	case 2:
		t.add(asm.LoadMem(asm.R0, asm.RFP, stackLoad, asm.Half), asm.HostTo(asm.BE, asm.R0, asm.Half))
	default:
		t.add(asm.LoadMem(asm.R0, asm.RFP, stackLoad, asm.Word), asm.HostTo(asm.BE, asm.R0, asm.Word))
	}
}

// fromHead composes size bytes at base+off into R0; byte by byte because the
// verifier wants stack reads aligned.
func (t *translator) fromHead(base asm.Register, off int16, size int32) {
	if base == asm.R1 {
		// R0 is free, R1 holds the address.
		t.add(asm.LoadMem(asm.R0, base, off, asm.Byte))
	} else {
		t.add(asm.LoadMem(asm.R0, asm.RFP, off, asm.Byte))
	}
	for i := int16(1); i < int16(size); i++ {
		t.add(asm.LSh.Imm(asm.R0, 8), asm.LoadMem(asm.R3, base, off+i, asm.Byte), asm.Or.Reg(asm.R0, asm.R3))
	}
}

// loadAbs loads into R0.
func (t *translator) loadAbs(k uint32, size int32) {
	end := int64(k) + int64(size)
	switch {
	case t.raw || end <= 12:
		t.add(asm.Mov.Imm(asm.R2, int32(k)))
		t.plain(size)
	case k >= 16:
		t.add(asm.Mov.Imm(asm.R2, int32(k)), asm.Sub.Reg(asm.R2, regShift))
		t.plain(size)
	default:
		head, done := t.local(), t.local()
		t.add(asm.JNE.Imm(regShift, 0, head), asm.Mov.Imm(asm.R2, int32(k)))
		t.plain(size)
		t.add(asm.Ja.Label(done))
		t.label = head
		t.fromHead(asm.RFP, stackHead+int16(k), size)
		t.label = done
		t.add(asm.Mov.Reg32(asm.R0, asm.R0))
	}
}

// loadInd loads from X+k into R0.
func (t *translator) loadInd(k uint32, size int32) {
	t.add(asm.Mov.Reg32(asm.R2, regX), asm.Add.Imm32(asm.R2, int32(k)))
	if t.raw {
		t.plain(size)
		return
	}
	plain, shifted, done := t.local(), t.local(), t.local()
	t.add(
		asm.JEq.Imm(regShift, 0, plain),
		asm.JGT.Imm(asm.R2, 15, shifted),
		asm.JLE.Imm(asm.R2, 12-size, plain),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, stackHead),
		asm.Add.Reg(asm.R1, asm.R2),
	)
	t.fromHead(asm.R1, 0, size)
	t.add(asm.Ja.Label(done))
	t.label = shifted
	t.add(asm.Sub.Imm(asm.R2, 4))
	t.label = plain
	t.plain(size)
	t.label = done
	t.add(asm.Mov.Reg32(asm.R0, asm.R0))
}

// Classic opcodes: linux/bpf_common.h.
const (
	classLD, classLDX, classST, classSTX   = 0, 1, 2, 3
	classALU, classJMP, classRET, classMSC = 4, 5, 6, 7

	modeIMM, modeABS, modeIND = 0x00, 0x20, 0x40
	modeMEM, modeLEN, modeMSH = 0x60, 0x80, 0xa0
	sourceX                   = 0x08
)

func loadSize(op uint16) int32 {
	switch op & 0x18 {
	case 0x08:
		return 2
	case 0x10:
		return 1
	}
	return 4
}

func (t *translator) one(i int, ins Instruction) error {
	switch ins.Op & 7 {
	case classLD, classLDX:
		return t.load(ins)
	case classST:
		t.add(asm.StoreMem(asm.RFP, stackMem+4*int16(ins.K), regA, asm.Word))
	case classSTX:
		t.add(asm.StoreMem(asm.RFP, stackMem+4*int16(ins.K), regX, asm.Word))
	case classALU:
		return t.alu(ins)
	case classJMP:
		return t.jump(i, ins)
	case classRET:
		if ins.Op&0x18 == 0x10 {
			t.add(asm.Mov.Reg32(asm.R0, regA))
		} else {
			t.add(asm.Mov.Imm32(asm.R0, int32(min(ins.K, 1))))
		}
		t.add(asm.Return())
	case classMSC:
		if ins.Op&0xf8 == 0x80 {
			t.add(asm.Mov.Reg32(regA, regX))
		} else {
			t.add(asm.Mov.Reg32(regX, regA))
		}
	}
	return nil
}

func (t *translator) load(ins Instruction) error {
	dst := regA
	if ins.Op&7 == classLDX {
		dst = regX
	}
	size := loadSize(ins.Op)
	switch mode := ins.Op & 0xe0; {
	case mode == modeIMM:
		t.add(asm.Mov.Imm32(dst, int32(ins.K)))
	case mode == modeMEM:
		t.add(asm.LoadMem(dst, asm.RFP, stackMem+4*int16(ins.K), asm.Word))
	case mode == modeLEN:
		t.add(asm.LoadMem(dst, regCtx, skbLen, asm.Word), asm.Add.Reg32(dst, regShift))
	case mode == modeABS && dst == regA:
		t.loadAbs(ins.K, size)
		t.add(asm.Mov.Reg32(dst, asm.R0))
	case mode == modeIND && dst == regA:
		t.loadInd(ins.K, size)
		t.add(asm.Mov.Reg32(dst, asm.R0))
	case mode == modeMSH && dst == regX:
		t.loadAbs(ins.K, 1)
		t.add(asm.And.Imm32(asm.R0, 15), asm.LSh.Imm32(asm.R0, 2), asm.Mov.Reg32(dst, asm.R0))
	default:
		return fmt.Errorf("unknown load %#x", ins.Op)
	}
	return nil
}

func (t *translator) alu(ins Instruction) error {
	ops := map[uint16]asm.ALUOp{0x00: asm.Add, 0x10: asm.Sub, 0x20: asm.Mul, 0x30: asm.Div, 0x40: asm.Or,
		0x50: asm.And, 0x60: asm.LSh, 0x70: asm.RSh, 0x90: asm.Mod, 0xa0: asm.Xor}
	code := ins.Op & 0xf0
	if code == 0x80 {
		t.add(asm.Mov.Imm32(asm.R0, 0), asm.Sub.Reg32(asm.R0, regA), asm.Mov.Reg32(regA, asm.R0))
		return nil
	}
	op, known := ops[code]
	if !known {
		return fmt.Errorf("unknown arithmetic %#x", ins.Op)
	}
	if ins.Op&sourceX == 0 {
		t.add(op.Imm32(regA, int32(ins.K)))
		return nil
	}
	if op == asm.Div || op == asm.Mod {
		t.add(asm.JEq.Imm32(regX, 0, "reject"))
	}
	t.add(op.Reg32(regA, regX))
	return nil
}

func (t *translator) jump(i int, ins Instruction) error {
	code := ins.Op & 0xf0
	if code == 0 {
		t.add(asm.Ja.Label(label(i + 1 + int(ins.K))))
		return nil
	}
	ops := map[uint16]asm.JumpOp{0x10: asm.JEq, 0x20: asm.JGT, 0x30: asm.JGE, 0x40: asm.JSet}
	op, known := ops[code]
	if !known {
		return fmt.Errorf("unknown jump %#x", ins.Op)
	}
	yes, no := label(i+1+int(ins.Jt)), label(i+1+int(ins.Jf))
	if ins.Op&sourceX != 0 {
		t.add(op.Reg32(regA, regX, yes))
	} else {
		t.add(op.Imm32(regA, int32(ins.K), yes))
	}
	t.add(asm.Ja.Label(no))
	return nil
}

// check holds the rules that the kernel has for classic programs.
func check(prog []Instruction) error {
	if len(prog) == 0 || len(prog) > maxFilter {
		return fmt.Errorf("filter has %d instructions; 1 to %d are possible: use a simpler expression", len(prog), maxFilter)
	}
	for i, ins := range prog {
		bad := ""
		switch ins.Op & 7 {
		case classLD, classLDX:
			if ins.Op&0xe0 == modeMEM && ins.K > 15 {
				bad = "memory index out of range"
			}
			if mode := ins.Op & 0xe0; (mode == modeABS || mode == modeIND || mode == modeMSH) && ins.K > 0x7fffffff {
				bad = "reads beside the packet"
			}
		case classST, classSTX:
			if ins.K > 15 {
				bad = "memory index out of range"
			}
		case classALU:
			code := ins.Op & 0xf0
			if ins.Op&sourceX == 0 && ins.K == 0 && (code == 0x30 || code == 0x90) {
				bad = "division by zero"
			}
			if ins.Op&sourceX == 0 && ins.K > 31 && (code == 0x60 || code == 0x70) {
				bad = "shift out of range"
			}
		case classJMP:
			far := max(uint64(ins.Jt), uint64(ins.Jf))
			if ins.Op&0xf0 == 0 {
				far = uint64(ins.K)
			}
			if uint64(i)+1+far >= uint64(len(prog)) {
				bad = "jump out of range"
			}
		}
		if bad != "" {
			return fmt.Errorf("filter instruction %d (op %#x): %s", i, ins.Op, bad)
		}
	}
	if prog[len(prog)-1].Op&7 != classRET {
		return fmt.Errorf("filter does not end with a return")
	}
	return nil
}

func reachable(prog []Instruction) []bool {
	live := make([]bool, len(prog))
	live[0] = true
	for i, ins := range prog { // jumps only go forward
		if !live[i] {
			continue
		}
		switch {
		case ins.Op&7 == classRET:
		case ins.Op&7 == classJMP && ins.Op&0xf0 == 0:
			live[i+1+int(ins.K)] = true
		case ins.Op&7 == classJMP:
			live[i+1+int(ins.Jt)], live[i+1+int(ins.Jf)] = true, true
		default:
			live[i+1] = true
		}
	}
	return live
}
