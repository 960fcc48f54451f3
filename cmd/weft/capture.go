package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api/client"
	"weft/controller/captures"
	"weft/model"
)

// captureFlags are the flags of `weft capture`.
type captureFlags struct {
	selector, group, host, filter, file, size string
	since, until, ring                        string
	flow, packets                             uint64
	long                                      time.Duration
	snaplen, rate                             int
	force                                     bool
}

func newCaptureCommand(o *options) *cobra.Command {
	var f captureFlags
	c := &cobra.Command{
		Use:   "capture",
		Short: "Capture packets of workloads on many hosts into one file",
		Long: `Capture packets of workloads on many hosts into one pcapng file.

Packets are in the order of time, whatever the hosts' clocks say, and each has
its workload and, for TCP and UDP, the process in its comment. Every workload is
an interface of the file. Drops are in the interface statistics.

With --since it begins with what the hosts' rings have kept: packets of before the
command. It ends with them, unless --for says to go on. A tap with spec.ring makes
hosts keep packets; weft get taps shows which there are, weft describe host how far
back they reach.

The hosts keep the limits by themselves. Ctrl-C ends the capture, and the file
is whole. A capture goes through the controller and is for looking, not for
leaving on: what should be copied all the time is a tap.`,
		Example: `  weft capture -l app=orders --filter 'tcp port 5432' --for 30s -w out.pcapng
  weft capture --group web -w - | wireshark -k -i -
  weft capture --flow 4711 -w flow.pcapng
  weft capture -l app=orders --since 5m --filter 'tcp port 5432' -w past.pcapng
  weft capture --host db1 --filter icmp --packets 100 -w - | tcpdump -r -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, o) },
	}
	flags := c.Flags()
	flags.StringVarP(&f.selector, "selector", "l", "", "workloads with these labels")
	flags.StringVar(&f.group, "group", "", "members of this group")
	flags.StringVar(&f.host, "host", "", "this machine, at its own interfaces")
	flags.Uint64Var(&f.flow, "flow", 0, "both ends of this flow, and only its packets; weft flows -o wide shows IDs")
	flags.StringVar(&f.filter, "filter", "", "pcap-filter(7) expression")
	flags.StringVarP(&f.file, "write", "w", "", "file to write; - is standard output")
	flags.StringVar(&f.since, "since", "", "what rings have kept since so long ago, as 5m or 24h, and only that unless --for is given")
	flags.StringVar(&f.until, "until", "", "with --since: until so long ago")
	flags.StringVar(&f.ring, "ring", "", "with --since: only of this tap's ring; packets that two rings keep come twice")
	flags.DurationVar(&f.long, "for", time.Minute, "end after so long, 24h at most")
	flags.Uint64Var(&f.packets, "packets", 1_000_000, "end after so many packets of all hosts together")
	flags.StringVar(&f.size, "size", "100MiB", "end after so many bytes of frames of all hosts together")
	flags.IntVar(&f.snaplen, "snaplen", 0, "keep so many bytes of each frame; 0 keeps all")
	flags.IntVar(&f.rate, "rate", 20, "Mbit/s at most through the controller, shared among the hosts; what is more is dropped and counted")
	flags.BoolVar(&f.force, "force", false, "also workloads of groups whose flows are Off or Unnamed; the audit log says so")
	c.RegisterFlagCompletionFunc("group", cobra.CompletionFunc(completeGroups(o))) //nolint:errcheck // the flag exists
	return c
}

func (f *captureFlags) query(cmd *cobra.Command) (url.Values, error) {
	size, err := model.ParseSize(f.size)
	if err != nil {
		return nil, usage(fmt.Errorf("--size: %w", err))
	}
	q := url.Values{"packets": {strconv.FormatUint(f.packets, 10)}, "bytes": {strconv.FormatUint(size, 10)},
		"snaplen": {strconv.Itoa(f.snaplen)}, "rate": {strconv.Itoa(f.rate * 1_000_000)}, "force": {strconv.FormatBool(f.force)}}
	if f.since == "" || cmd.Flags().Changed("for") {
		q.Set("for", f.long.String())
	}
	for name, v := range map[string]string{"labelSelector": f.selector, "group": f.group, "host": f.host, "filter": f.filter, "since": f.since, "until": f.until, "ring": f.ring} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if f.flow != 0 {
		q.Set("flow", strconv.FormatUint(f.flow, 10))
	}
	return q, nil
}

func (f *captureFlags) run(cmd *cobra.Command, o *options) error {
	if f.file == "" {
		return usage(errors.New("say where to: -w FILE, or -w - for standard output"))
	}
	q, err := f.query(cmd)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if f.file == "-" && terminal(out) {
		return usage(errors.New("packets are nothing for a terminal: -w FILE, or -w - | tcpdump -r -"))
	}
	cl, err := o.connect()
	if err != nil {
		return err
	}
	// Ctrl-C asks for the end of the file.
	id, body, err := cl.Capture(context.WithoutCancel(cmd.Context()), q)
	if err != nil {
		return explainProblem(err)
	}
	defer body.Close()
	if f.file != "-" {
		file, err := os.OpenFile(f.file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer file.Close()
		out = file
	}
	copied, over, late := make(chan error, 1), make(chan struct{}), make(chan struct{})
	defer close(over)
	go func() { copied <- copyBlocks(out, body) }()
	go attend(cmd, cl, id, over, late)
	select {
	case err := <-copied:
		if err == nil {
			sumUp(cmd, cl, id)
		}
		return err
	case <-late:
	}
	body.Close()
	select {
	case <-copied:
		return errors.New("ended before all had come; the file is whole and ends here")
	case <-time.After(time.Second):
		return errors.New("nobody takes the file, which may end in the middle of a packet")
	}
}

// attend says how far the capture is and ends it when somebody wants it to. Where
// the end does not come in time, or is wanted again, late is closed.
func attend(cmd *cobra.Command, cl *client.Client, id string, done <-chan struct{}, late chan<- struct{}) {
	stop, giveUp := make(chan os.Signal, 1), sync.OnceFunc(func() { close(late) })
	said, ending := map[string]bool{}, false
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(stop)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-stop:
			if ending {
				giveUp()
				return
			}
			ending = true
			time.AfterFunc(endWithin, giveUp)
			ctx, cancel := context.WithTimeout(context.Background(), askWithin)
			if err := cl.EndCapture(ctx, id); err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "end the capture: %v\n", err)
			}
			cancel()
			continue
		case <-tick.C:
		}
		list := figures(cl, id)
		for _, x := range list {
			if x.Message != "" && !x.Ended && !said[x.Host+x.Message] { // else it is said at the end
				said[x.Host+x.Message] = true
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", x.Host, x.Message)
			}
		}
		if terminal(cmd.ErrOrStderr()) && len(list) > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "\r%s\x1b[K", strings.Join(lines(list), "; "))
		}
	}
}

// figures are what the controller says of a capture; none where it says nothing.
func figures(cl *client.Client, id string) []captures.Figures {
	ctx, cancel := context.WithTimeout(context.Background(), askWithin)
	defer cancel()
	list, err := cl.CaptureFigures(ctx, id)
	if err != nil {
		return nil
	}
	return list
}

func lines(list []captures.Figures) (out []string) {
	for _, x := range list {
		out = append(out, fmt.Sprintf("%s %s, %s, %d dropped", x.Host, show.Plural(int(x.Packets), "packet"), show.Bytes(x.Bytes), x.Dropped))
	}
	return out
}

// sumUp says what came of a capture that is over, and why it is.
func sumUp(cmd *cobra.Command, cl *client.Client, id string) {
	list := figures(cl, id)
	if terminal(cmd.ErrOrStderr()) {
		fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
	}
	for i, text := range lines(list) {
		if m := list[i].Message; m != "" {
			text += ": " + m
		}
		fmt.Fprintln(cmd.ErrOrStderr(), text)
	}
}

const (
	// endWithin is how long after Ctrl-C the end of the file is waited for.
	endWithin = 20 * time.Second
	// askWithin is how long the controller's word on a capture is waited for.
	askWithin = 3 * time.Second
)

// maxBlock is more than any block that a controller writes.
const maxBlock = 1 << 20

// copyBlocks copies a pcapng block by block: what ends in the middle of one, as
// where the controller is gone, is left whole.
func copyBlocks(out io.Writer, in io.Reader) error {
	r := bufio.NewReaderSize(in, 64<<10)
	var block []byte
	for {
		head, err := r.Peek(8)
		if errors.Is(err, io.EOF) && len(head) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the controller is gone before the end; the file is whole and ends here: %w", err)
		}
		n := int(binary.LittleEndian.Uint32(head[4:]))
		if n < 12 || n > maxBlock {
			return fmt.Errorf("the answer is no capture: a block of %d bytes", n)
		}
		if cap(block) < n {
			block = make([]byte, n)
		}
		if _, err := io.ReadFull(r, block[:n]); err != nil {
			return fmt.Errorf("the controller is gone before the end; the file is whole and ends here: %w", err)
		}
		if _, err := out.Write(block[:n]); err != nil {
			return fmt.Errorf("write the capture: %w", err)
		}
	}
}
