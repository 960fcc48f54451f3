package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"golang.org/x/net/ipv4"

	"weft/lab"
	"weft/lab/netns"
)

// datagrams sends UDP from the source to the sink at a fixed rate. Payloads are
// random, which is the worst that compression can meet.
type datagrams struct {
	frames []int // lengths of frames with the Ethernet header and without FCS, in turn
	rate   int   // a second
}

const datagramHeaders = 14 + 20 + 8

const sinkPort = 9

// traffic is what a workload got done.
type traffic struct {
	sent, lost int // datagrams, and those that the sink did not get
	latencies  []time.Duration
	rate       float64 // bits a second, of payload
}

func (d datagrams) run(ctx context.Context, source, sink *lab.Host, length time.Duration) (t traffic, err error) {
	const batch = 32
	in, err := listenUDP(sink)
	if err != nil {
		return t, err
	}
	defer in.Close()
	got := make(chan int, 1)
	go func() { got <- receive(in, batch) }()
	var out *net.UDPConn
	to := &net.UDPAddr{IP: sink.Addresses()[0].AsSlice(), Port: sinkPort}
	if err := netns.Do(source.NetNS(), func() (err error) { out, err = net.DialUDP("udp4", nil, to); return }); err != nil {
		return t, err
	}
	defer out.Close()
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	conn := ipv4.NewPacketConn(out)
	msgs := make([]ipv4.Message, batch)
	for i := range msgs {
		msgs[i].Buffers = make([][]byte, 1)
	}
	bytes, began := 0, time.Now()
	for total := int(length.Seconds() * float64(d.rate)); t.sent < total && ctx.Err() == nil; {
		due := min(total, int(time.Since(began).Seconds()*float64(d.rate))+1) - t.sent
		for due > 0 {
			n := min(due, batch)
			for i := range n {
				size := d.frames[(t.sent+i)%len(d.frames)]
				at := random.IntN(len(noise) - size)
				msgs[i].Buffers[0] = noise[at : at+size-datagramHeaders]
				bytes += size - datagramHeaders
			}
			for sent := 0; sent < n; {
				k, err := conn.WriteBatch(msgs[sent:n], 0)
				if err != nil {
					return t, err
				}
				sent += k
			}
			t.sent += n
			due -= n
		}
		time.Sleep(time.Millisecond)
	}
	t.rate = float64(bytes) * 8 / time.Since(began).Seconds()
	time.Sleep(50 * time.Millisecond)
	in.SetReadDeadline(time.Now())
	t.lost = t.sent - <-got
	return t, nil
}

func listenUDP(sink *lab.Host) (in *net.UDPConn, err error) {
	err = netns.Do(sink.NetNS(), func() (err error) {
		if in, err = net.ListenUDP("udp4", &net.UDPAddr{Port: sinkPort}); err != nil {
			return err
		}
		return in.SetReadBuffer(8 << 20)
	})
	return in, err
}

// receive counts datagrams until the deadline.
func receive(in *net.UDPConn, batch int) (n int) {
	conn := ipv4.NewPacketConn(in)
	msgs := make([]ipv4.Message, batch)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for {
		k, err := conn.ReadBatch(msgs, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) || err != nil {
			return n
		}
		n += k
	}
}
