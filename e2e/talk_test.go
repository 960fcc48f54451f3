package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// said is what a generator of traffic has really sent and received: what flows
// are compared with. Bytes count IP and UDP headers.
type said struct {
	Flows           uint64
	SentPackets     uint64
	SentBytes       uint64
	ReceivedPackets uint64
	ReceivedBytes   uint64
}

// ipUDP is the length of an IPv4 header without options and of a UDP header.
const ipUDP = 20 + 8

// answer is a server: to each datagram it sends half of it back.
func answer(ctx context.Context, address string) error {
	c, err := net.ListenPacket("udp4", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { c.Close() })
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return nil //nolint:nilerr // told to end
		}
		if _, err := c.WriteTo(buf[:n/2], from); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// ask has conversations with such a server, each from a port of its own, from one
// on, and over in a moment, and prints what was said.
func ask(server, port, flows string) error {
	first, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(flows)
	if err != nil {
		return err
	}
	to, err := net.ResolveUDPAddr("udp4", server)
	if err != nil {
		return err
	}
	var total said
	buf := make([]byte, 2048)
	for i := range n {
		c, err := net.DialUDP("udp4", &net.UDPAddr{Port: first + i}, to)
		if err != nil {
			return err
		}
		total.Flows++
		for k := range 1 + i%3 {
			size := 100 + (i*7+k)%900
			if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				return err
			}
			if _, err := c.Write(buf[:size]); err != nil {
				return err
			}
			got, err := c.Read(buf)
			if err != nil {
				return fmt.Errorf("conversation %d: %w", i, err)
			}
			total.SentPackets, total.SentBytes = total.SentPackets+1, total.SentBytes+uint64(size+ipUDP)
			total.ReceivedPackets, total.ReceivedBytes = total.ReceivedPackets+1, total.ReceivedBytes+uint64(got+ipUDP)
		}
		c.Close()
	}
	return json.NewEncoder(os.Stdout).Encode(total)
}

// call makes short connections to an echo, one after another.
func call(server, connections string) error {
	n, err := strconv.Atoi(connections)
	if err != nil {
		return err
	}
	buf := make([]byte, 8)
	for i := range n {
		c, err := net.DialTimeout("tcp4", server, 10*time.Second)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := c.Read(buf); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		c.Close()
	}
	return json.NewEncoder(os.Stdout).Encode(said{Flows: uint64(n)})
}
