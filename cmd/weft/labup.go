package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/cmd/weft/inlab"
	"weft/lab"
)

func newLabUpCommand() *cobra.Command {
	var foreground, check bool
	var agents labAgents
	var readyFD int
	c := &cobra.Command{
		Use:     "up FILE",
		Short:   "Bring a lab up from a topology file",
		Example: "  sudo weft lab up hybrid.yaml\n  sudo weft lab up hybrid.yaml --foreground\n  sudo weft lab up --agents examples/two-node/topology.yaml",
		Long: "Bring a lab up from a topology file. A background process owns the lab until\n" +
			"weft lab down; with --foreground this process does, until it is interrupted.\n" +
			"With --agents a controller runs on the host named controller, and an agent on\n" +
			"every other host.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			topo, err := lab.Load(args[0])
			if err != nil {
				return err
			}
			switch {
			case check:
				fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", args[0])
				return nil
			case readyFD > 0:
				return runLabOwner(cmd.Context(), topo, agents, os.NewFile(uintptr(readyFD), "ready"))
			case foreground:
				return runLab(cmd.Context(), cmd.OutOrStdout(), topo, agents)
			}
			return startLabOwner(cmd.OutOrStdout(), args[0], agents)
		},
	}
	c.Flags().BoolVar(&foreground, "foreground", false, "stay, log to standard error, and take the lab down at the end")
	c.Flags().BoolVar(&check, "check", false, "only check the file")
	c.Flags().BoolVar(&agents.wanted, "agents", false, "run a controller and agents in it")
	c.Flags().StringArrayVar(&agents.args, "agent-arg", nil, "one more argument for every agent; may be repeated")
	c.Flags().IntVar(&readyFD, "ready-fd", 0, "")
	c.Flags().MarkHidden("ready-fd")
	return c
}

// runLab owns a lab in the foreground.
func runLab(ctx context.Context, out io.Writer, topo *lab.Topology, agents labAgents) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l, err := lab.Up(ctx, topo, lab.Options{Log: log})
	if err != nil {
		return err
	}
	running, err := agents.up(ctx, l)
	if err == nil {
		err = printLab(out, l)
	}
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, running.Close(), l.Down())
}

// startLabOwner starts this program again as the owner of a lab and waits
// until the lab is up or has failed.
func startLabOwner(out io.Writer, file string, agents labAgents) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	owner := exec.Command(self, append([]string{"lab", "up", "--ready-fd", "3", file}, agents.flags()...)...)
	owner.ExtraFiles = []*os.File{write}
	owner.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := owner.Start(); err != nil {
		return fmt.Errorf("start the lab's owner: %w", err)
	}
	write.Close()
	said, err := io.ReadAll(read)
	if err != nil {
		return err
	}
	id, ok := bytes.CutPrefix(said, []byte("up "))
	if !ok {
		owner.Wait()
		if len(said) == 0 {
			return errors.New("the lab's owner ended without a word; try --foreground")
		}
		return errors.New(string(said))
	}
	l, err := lab.Open(string(id))
	if err != nil {
		return err
	}
	return printLab(out, l)
}

// runLabOwner owns a lab in the background. It tells the one who started it
// how it went and then speaks only to the log in the lab's run directory.
func runLabOwner(ctx context.Context, topo *lab.Topology, agents labAgents, ready *os.File) error {
	syscall.CloseOnExec(int(ready.Fd()))
	early := &lateWriter{}
	l, err := lab.Up(ctx, topo, lab.Options{Log: slog.New(slog.NewTextHandler(early, nil))})
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	log, err := openLog(l)
	if err == nil {
		err = early.switchTo(log)
	}
	if err == nil {
		// A panic belongs in the log too.
		err = unix.Dup3(int(log.Fd()), 2, 0)
	}
	var running *inlab.Fleet
	if err == nil {
		running, err = agents.up(ctx, l)
	}
	if err != nil {
		fmt.Fprint(ready, err)
		return errors.Join(err, l.Down())
	}
	fmt.Fprint(ready, "up "+l.ID)
	ready.Close()
	<-ctx.Done()
	return errors.Join(running.Close(), l.Down())
}

// lateWriter keeps what is written until it is told where to.
type lateWriter struct {
	mu   sync.Mutex
	held bytes.Buffer
	to   io.Writer
}

func (w *lateWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.to != nil {
		return w.to.Write(p)
	}
	return w.held.Write(p)
}

func (w *lateWriter) switchTo(to io.Writer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = to
	_, err := to.Write(w.held.Bytes())
	return err
}
