package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"weft/bench/charge"
	"weft/bench/scale"
	"weft/controller/pki"
	"weft/model"
)

// The agents are a process of their own, so that neither needs more open files
// than a machine gives. The controller's side writes a line "NUMBER UID" for each
// host and an empty one at the end; the agents' side answers with four bytes for
// each section of identity that is in force: the size of what came with it. Its
// first answer, zero, says that all have connected.

// bring starts the agents' process and waits until all have connected.
func (c *controller) bring(ctx context.Context, hosts []*model.Host) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-agents-of", c.address, "-dir", c.dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.child = cmd
	c.letGo = in
	w := bufio.NewWriter(in)
	for i, h := range hosts {
		fmt.Fprintf(w, "%d %s\n", i, h.Metadata.UID)
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	connected := make(chan struct{})
	c.running.Go(func() {
		r := bufio.NewReader(out)
		var raw [4]byte
		for {
			if _, err := io.ReadFull(r, raw[:]); err != nil {
				return
			}
			if n := binary.BigEndian.Uint32(raw[:]); n == 0 {
				close(connected)
			} else {
				c.bytes.Add(int64(n))
				c.note()
			}
		}
	})
	select {
	case <-connected:
		return nil
	case <-time.After(10 * time.Minute):
		return fmt.Errorf("the agents have not connected within ten minutes")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// used is the CPU time of both processes so far, in seconds.
func (c *controller) used() float64 {
	own, _, _ := charge.Process(os.Getpid())
	agents, _, _ := charge.Process(c.child.Process.Pid)
	return (own + agents).Seconds()
}

// fleet is the agents' process.
type fleet struct {
	authority *pki.Authority
	address   string
	running   sync.WaitGroup
	mu        sync.Mutex // of standard output
}

// agents connects those named on standard input, and stays until that ends.
func agents(ctx context.Context, address, dir string) error {
	authority, err := pki.Open(pki.Config{Dir: dir, TrustDomain: trustDomain, Name: "controller"})
	if err != nil {
		return err
	}
	f := &fleet{authority: authority, address: address}
	type one struct {
		n   int
		uid string
	}
	var list []one
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() && strings.TrimSpace(lines.Text()) != "" {
		var o one
		if _, err := fmt.Sscan(lines.Text(), &o.n, &o.uid); err != nil {
			return err
		}
		list = append(list, o)
	}
	err = spread(len(list), func(i int) error {
		h := &model.Host{Metadata: model.Metadata{Name: scale.HostName(list[i].n), UID: list[i].uid}}
		return f.agent(ctx, list[i].n, h)
	})
	if err != nil {
		return err
	}
	f.say(0)
	lines.Scan()
	return nil
}

func (f *fleet) say(n uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = os.Stdout.Write(binary.BigEndian.AppendUint32(nil, n))
}
