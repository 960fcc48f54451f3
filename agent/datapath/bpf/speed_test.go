package bpf

import (
	"encoding/binary"
	"testing"

	"weft/agent/connection"
	"weft/agent/datapath/datapathtest"
)

// BenchmarkReading reads a table of 100,000 connections.
func BenchmarkReading(b *testing.B) {
	s := datapathtest.NewSite(b)
	d, err := Open(Config{CgroupRoot: s.Root, PinDir: mountBPF(b), Connections: 1 << 18}, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Remove()
	const lines = 100_000
	now, err := bootTime()
	if err != nil {
		b.Fatal(err)
	}
	keys, values := make([]policyConnKey, lines), make([]policyConn, lines)
	for i := range keys {
		keys[i] = policyConnKey{Family: 4, Protocol: 6, Netns: 1, RemotePort: 80}
		binary.BigEndian.PutUint32(keys[i].Local[:], uint32(i))
		values[i] = policyConn{FirstNs: uint64(now), LastNs: uint64(now), Direction: 1, Action: 1, Slot: 1, Flags: connEstablished, Process: policyProcess{Pid: uint32(i), Comm: [16]int8{'c', 'u', 'r', 'l'}}}
	}
	if _, err := d.objects.Conns.BatchUpdate(keys, values, nil); err != nil {
		b.Fatal(err)
	}
	read := func() (n int) {
		if err := d.Connections(func(*connection.Line) bool { n++; return true }); err != nil {
			b.Fatal(err)
		}
		return n
	}
	if n := read(); n != lines {
		b.Fatalf("%d lines", n)
	}
	b.ReportAllocs()
	for b.Loop() {
		read()
	}
}
