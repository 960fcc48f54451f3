package bpf

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/dchest/siphash"
)

// sipHash asks the program.
func sipHash(t *testing.T, d *Driver, key [16]byte, message []byte) uint64 {
	t.Helper()
	var in [14 + 16 + 8 + 64]byte
	binary.BigEndian.PutUint16(in[12:], 0x88b5) // an EtherType for experiments, IEEE 802
	copy(in[14:], key[:])
	binary.NativeEndian.PutUint32(in[30:], uint32(len(message)))
	copy(in[38:], message)
	if n, _, err := d.objects.WeftSiphash.Test(in[:]); err != nil || n != 1 {
		t.Fatalf("run the program: %d, %v", n, err)
	}
	var v policyVerdict
	if err := d.objects.Verdicts.Lookup(uint32(0), &v); err != nil {
		t.Fatal(err)
	}
	var bytes [8]byte // as they lie in memory: little-endian, as the paper has them
	binary.NativeEndian.PutUint64(bytes[:], v.Rule)
	return binary.LittleEndian.Uint64(bytes[:])
}

func TestSipHash(t *testing.T) {
	d := open(t)
	var key [16]byte
	var message [64]byte
	for i := range message {
		message[i] = byte(i)
	}
	copy(key[:], message[:])
	// Appendix A of the paper.
	if got := sipHash(t, d, key, message[:15]); got != 0xa129ca6149be45e5 {
		t.Errorf("the paper's vector: %#x", got)
	}
	r := rand.New(rand.NewChaCha8([32]byte{1}))
	check := func(message []byte) {
		t.Helper()
		want := siphash.Hash(binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:]), message)
		if got := sipHash(t, d, key, message); got != want {
			t.Fatalf("key %x message %x: %#x, the library says %#x", key, message, got, want)
		}
	}
	for n := range len(message) + 1 {
		check(message[:n])
	}
	for range 5000 {
		for i := range key {
			key[i] = byte(r.Uint32())
		}
		for i := range message {
			message[i] = byte(r.Uint32())
		}
		check(message[:r.IntN(len(message)+1)])
	}
}
