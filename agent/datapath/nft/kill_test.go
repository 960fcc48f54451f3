package nft_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/agent/datapath/nft"
)

// applyForEver changes the rules of a machine until it is killed.
func applyForEver(path string) {
	d := nft.New(nft.Config{NetNS: path})
	for i := 0; ; i++ {
		if err := d.Apply(context.Background(), manyState(nil, manyRules(2000+i%3*500))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// A program killed at any point leaves rules that hold, and the next one goes on.
func TestKilled(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	apply(t, d, manyState(s, manyRules(2000)))
	denied := make(chan string, 1)
	const kills = 15
	go func() { denied <- s.host.do("flood", "", s.outside.addr(false, 53), kills*250*time.Millisecond) }()
	for i := range kills {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "WEFT_NFT_KILL="+s.machine)
		cmd.Stderr = os.Stderr
		fail(t, cmd.Start())
		time.Sleep(time.Duration(100+i*11) * time.Millisecond)
		fail(t, cmd.Process.Kill())
		cmd.Wait()
	}
	if got := <-denied; !strings.HasSuffix(got, " got 0") {
		t.Errorf("what is denied: %s", got)
	}
	again := nft.New(nft.Config{NetNS: s.machine})
	apply(t, again, manyState(s, manyRules(2000)))
	want(t, s.host, "udp", s.outside.addr(false, 53), "dropped")
	want(t, s.outside, "tcp", s.host.addr(false, 80), "ok")
	fail(t, again.Close())
}
