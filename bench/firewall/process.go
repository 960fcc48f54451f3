package main

import (
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"weft/lab/netns"
)

// sinkArgument makes this program a sink.
const sinkArgument = "sink"

// sinkProcess is a sink that runs.
type sinkProcess struct {
	*rpc.Client
	cmd *exec.Cmd
}

// pipes are the two of a process, as one.
type pipes struct {
	io.Reader
	io.WriteCloser
}

// startSink starts one in a network namespace and a cgroup. It ends with its
// standard input.
func startSink(namespace, cgroup string) (*sinkProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	cmd := exec.Command(self, sinkArgument)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := netns.Do(namespace, cmd.Start); err != nil {
		return nil, fmt.Errorf("start the sink: %w", err)
	}
	return &sinkProcess{rpc.NewClient(pipes{out, in}), cmd}, nil
}

func serveSink() error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM) // which reach all of a terminal's programs
	server := rpc.NewServer()
	if err := server.Register(&Sink{ports: map[rule]*arrivals{}}); err != nil {
		return err
	}
	server.ServeConn(pipes{os.Stdin, os.Stdout})
	return nil
}

func (p *sinkProcess) stop() {
	p.Client.Close()
	timer := time.AfterFunc(2*time.Second, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	p.cmd.Wait()
}

func (p *sinkProcess) open(r rule) error {
	return p.Call("Sink.Open", Port{r.protocol, r.port}, &struct{}{})
}

func (p *sinkProcess) reset(r rule) error {
	return p.Call("Sink.Reset", Port{r.protocol, r.port}, &struct{}{})
}

func (p *sinkProcess) read(r rule) (a Arrivals, err error) {
	err = p.Call("Sink.Read", Port{r.protocol, r.port}, &a)
	return a, err
}
