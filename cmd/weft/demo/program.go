package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"weft/lab"
)

// program is one process that the demo started in the lab.
type program struct {
	name string
	log  string
	cmd  *lab.Cmd
	done chan struct{}
	once sync.Once
}

// start runs a program in a lab host; its output goes to a log in the host's directory.
func (d *demo) start(name string, cmd *lab.Cmd, dir string) (*program, error) {
	if old := d.procs[name]; old != nil {
		old.stop()
	}
	path := filepath.Join(dir, strings.ReplaceAll(name, ":", "-")+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	p := &program{name: name, log: path, cmd: cmd, done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	d.procs[name] = p
	return p, nil
}

// stop ends the process kindly, then not.
func (p *program) stop() {
	p.once.Do(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			p.kill()
		}
	})
}

// kill ends the process at once, as the kernel's out-of-memory killer does.
func (p *program) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// tail is the end of the program's log, for an error message.
func (p *program) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n     ")
}

// exited says whether the program is gone, with the end of its log.
func (p *program) exited() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended:\n     %s", p.name, p.tail())
	default:
		return nil
	}
}

// output runs a command in the lab and returns what it printed.
func output(ctx context.Context, r lab.Runner, argv ...string) (string, error) {
	out, err := r.Command(ctx, argv...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
