package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
)

// findOption is what find_option of option.h should find in a TCP header, written
// from RFC 9293 and RFC 6994 and not from it: the first option of ours among well
// formed ones, as the kernel's program answers.
func findOption(header []byte) (v policyVerdict) {
	const fixed, ours = 20, 20
	if len(header) < fixed {
		return v
	}
	length := int(header[12]>>4) * 4
	if length < fixed || length > len(header) {
		return v
	}
	options := header[fixed:length]
	for len(options) > 0 {
		kind := options[0]
		if kind == 0 { // the end of the list
			return v
		}
		if kind == 1 { // no operation
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return v // what follows cannot be told apart
		}
		o := options[:options[1]]
		options = options[len(o):]
		if kind == 254 && len(o) == ours && binary.BigEndian.Uint16(o[2:]) == 0x5745 {
			v.Rule = binary.NativeEndian.Uint64(o[12:])
			v.Logged = binary.BigEndian.Uint64(o[4:])
			v.Action = binary.BigEndian.Uint32(header[4:])
			v.Stateless = binary.BigEndian.Uint32(o)
			return v
		}
	}
	return v
}

// optionAsker runs the kernel's parser.
type optionAsker struct {
	d     *Driver
	frame [14 + 256 + 80]byte
	out   [14 + 256 + 80]byte
}

// ask puts a header as many bytes into a packet and returns what is found.
func (a *optionAsker) ask(t testing.TB, at uint8, header []byte) (v policyVerdict) {
	t.Helper()
	binary.BigEndian.PutUint16(a.frame[12:], 0x88b5) // an EtherType for experiments, IEEE 802
	begin := 14 + max(int(at), 1)                    // the first byte says where
	a.frame[14] = byte(begin - 14)
	frame := a.frame[:begin+copy(a.frame[begin:], header)]
	n, err := a.d.objects.WeftOption.Run(&ebpf.RunOptions{Data: frame, DataOut: a.out[:]})
	if err != nil || n != 1 {
		t.Fatalf("run the program on %x: %d, %v", frame, n, err)
	}
	if err := a.d.objects.Verdicts.Lookup(uint32(0), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// compare says whether both parsers find the same, and whether they find any.
func (a *optionAsker) compare(t testing.TB, at uint8, header []byte) (found bool) {
	t.Helper()
	got, want := a.ask(t, at, header), findOption(header)
	if got != want {
		t.Fatalf("%d bytes in, %x:\nkernel    %+v\nreference %+v", at, header, got, want)
	}
	return want.Stateless != 0
}

var good = append([]byte{254, 20, 0x57, 0x45, 0, 0, 0, 7, 0, 0, 1, 2}, "eightish"...)

// hostile makes a header whose options are as an attacker would have them: now
// and then well formed, mostly not quite.
func hostile(r *rand.Rand, header []byte) []byte {
	header = header[:20]
	for i := range header {
		header[i] = byte(r.Uint32())
	}
	most := r.IntN(41)
	for room := most - (len(header) - 20); room > 0; room = most - (len(header) - 20) {
		var next []byte
		switch r.IntN(12) {
		case 0, 1, 2:
			next = []byte{1}
		case 3: // another option, long as it says
			n := 2 + r.IntN(10)
			next = make([]byte, n)
			next[0], next[1] = []byte{2, 3, 4, 5, 8, 253, 254, 255}[r.IntN(8)], byte(n)
		case 4: // one that lies about its length
			next = []byte{byte(r.Uint32()), byte(r.IntN(48)), 254, 20, 0x57, 0x45}[:2+r.IntN(5)]
		case 5:
			next = []byte{byte(r.IntN(3)), byte(r.IntN(2))}
		case 6: // ours, cut short or with a byte changed
			next = append([]byte(nil), good...)
			if r.IntN(2) == 0 {
				next = next[:r.IntN(len(next))]
			} else {
				next[r.IntN(4)] ^= 1 << r.IntN(8)
			}
		case 7: // of the same kind, another's
			next = []byte{254, byte(4 + r.IntN(3)*8), 0x57, byte(r.Uint32())}
		case 8:
			next = make([]byte, r.IntN(8))
			for i := range next {
				next[i] = byte(r.Uint32())
			}
		default:
			next = good
		}
		header = append(header, next[:min(len(next), room)]...)
	}
	for len(header)%4 != 0 && r.IntN(20) != 0 { // as a rule padded
		header = append(header, byte(r.IntN(2)))
	}
	header[12] = byte(len(header)/4) << 4
	switch r.IntN(12) {
	case 0: // says that it is longer or shorter
		header[12] = byte(r.Uint32())
	case 1: // ends early
		header = header[:r.IntN(len(header)+1)]
	case 2: // data behind it
		header = append(header, good...)
	}
	return header
}

// The kernel's parser of who calls finds what the reference does, in whatever
// somebody sends.
func TestFindOptionEqualsReference(t *testing.T) {
	a := &optionAsker{d: open(t)}
	cases := 200_000
	if testing.Short() {
		cases = 20_000
	}
	r := rand.New(rand.NewPCG(7, 11))
	room := make([]byte, 20, 120)
	found := 0
	for range cases {
		if a.compare(t, uint8(1+r.IntN(255)), hostile(r, room)) {
			found++
		}
	}
	// Both must be common, or nothing was tried.
	if found < cases/10 || found > cases*9/10 {
		t.Errorf("an option in %d of %d", found, cases)
	}
	t.Logf("%d headers compared, an option of ours in %d", cases, found)
}

// Each place that an option of ours can begin at, and each length of header.
func TestFindOptionAtEveryPlace(t *testing.T) {
	a := &optionAsker{d: open(t)}
	for length := 20; length <= 60; length += 4 {
		for place := 0; place+20 <= length; place++ {
			for _, pad := range []byte{1, 0} {
				header := make([]byte, 20, 80)
				header[12] = byte(length/4) << 4
				for range place {
					header = append(header, pad)
				}
				header = append(header, good...)
				for len(header) < length {
					header = append(header, 1)
				}
				found := a.compare(t, 20, header)
				if want := place+20 <= length-20 && (pad == 1 || place == 0); found != want {
					t.Errorf("%d bytes of header, %d of %d before it: found is %v", length, place, pad, found)
				}
				for cut := range len(header) {
					a.compare(t, 20, header[:cut])
				}
			}
		}
	}
}

func FuzzFindOption(f *testing.F) {
	a := &optionAsker{d: open(f)}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		f.Add(uint8(20), append([]byte(nil), hostile(r, make([]byte, 20, 120))...))
	}
	f.Fuzz(func(t *testing.T, at uint8, header []byte) {
		a.compare(t, at, header[:min(len(header), 80)])
	})
}
