package e2e

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// knockEvery is how often a new connection is tried; each is given knockLong.
const (
	knockEvery = 5 * time.Millisecond
	knockLong  = 300 * time.Millisecond
)

// knocks are what somebody counted who is not to be let in.
type knocks struct {
	Tried, LetIn int64
	// Longest pause between two tries: no instant longer than this was left out.
	Longest time.Duration
	First   string // when it was first let in
}

// knock tries to open a connection again and again until it is told to end.
func knock(ctx context.Context, address string) error {
	var k knocks
	var letIn atomic.Int64
	var first atomic.Pointer[string]
	var all sync.WaitGroup
	tick := time.NewTicker(knockEvery)
	defer tick.Stop()
	for last := time.Now(); ctx.Err() == nil; <-tick.C {
		k.Tried++
		k.Longest = max(k.Longest, time.Since(last))
		last = time.Now()
		all.Go(func() {
			c, err := net.DialTimeout("tcp4", address, knockLong)
			if err != nil {
				return
			}
			c.Close()
			letIn.Add(1)
			now := time.Now().Format("15:04:05.000")
			first.CompareAndSwap(nil, &now)
		})
	}
	all.Wait()
	if k.LetIn = letIn.Load(); k.LetIn > 0 {
		k.First = *first.Load()
	}
	return json.NewEncoder(os.Stdout).Encode(k)
}
