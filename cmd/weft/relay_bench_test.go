package main

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"weft/agent/transport"
	"weft/relay"
	"weft/wire"
)

// BenchmarkStream sends bytes from one agent to another, directly and over a
// relay, all in this process: the relayed path does TLS six times instead of
// twice and crosses loopback twice.
func BenchmarkStream(b *testing.B) {
	f := newFleet(b)
	r := f.relay(b, "r1", relay.Config{})
	got := make(chan int64, 64)
	tool := f.agent(b, "ids", fast, func(_ context.Context, conn net.Conn, _ wire.Identity) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, conn, make([]byte, 64<<10))
		if n > 0 { // else the path that lost the race
			got <- n
		}
	})
	web := f.agent(b, "web", fast, nil)
	tool.apply(b, true, r)
	web.apply(b, false, r)
	for _, path := range []string{transport.PathDirect, transport.PathRelay} {
		b.Run(path, func(b *testing.B) {
			var addresses []string
			if path == transport.PathDirect {
				addresses = []string{tool.ListenAddr().String()}
			}
			conn := dial(b, web, tool, addresses...)
			if conn.Path().Kind != path {
				b.Fatalf("path is %s", conn.Path().Kind)
			}
			chunk := make([]byte, 64<<10)
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			conn.SetDeadline(time.Now().Add(time.Minute))
			for b.Loop() {
				if _, err := conn.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			conn.CloseWrite()
			<-got // all has arrived
			conn.Close()
		})
	}
}
