package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"weft/lab"
	"weft/lab/frames"
)

// recording is a tcpdump that runs in the lab.
type recording struct {
	cmd    *lab.Cmd
	path   string
	stderr *bufio.Reader
}

// record starts tcpdump and returns once it listens.
func (d *demo) record(ctx context.Context, r lab.Runner, device, name, filter string) (*recording, error) {
	rec := &recording{path: filepath.Join(d.work, name+".pcap")}
	// -Z root: the file is in a directory that only root may enter.
	rec.cmd = r.Command(ctx, "tcpdump", "-Z", "root", "-U", "-s", "0", "-B", "16384", "-ni", device, "-w", rec.path, filter)
	pipe, err := rec.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := rec.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start tcpdump: %w", err)
	}
	rec.stderr = bufio.NewReader(pipe)
	for {
		line, err := rec.stderr.ReadString('\n')
		if strings.Contains(line, "listening on") {
			return rec, nil
		}
		if err != nil {
			rec.cmd.Wait()
			return nil, fmt.Errorf("tcpdump on %s: %s", device, strings.TrimSpace(line))
		}
	}
}

// stop ends the recording and reads it.
func (r *recording) stop() (*frames.Capture, error) {
	r.cmd.Process.Signal(syscall.SIGINT)
	for {
		line, err := r.stderr.ReadString('\n')
		if strings.Contains(line, "dropped by kernel") && !strings.HasPrefix(line, "0 ") {
			defer r.cmd.Wait()
			return nil, fmt.Errorf("tcpdump: %s", strings.TrimSpace(line))
		}
		if err != nil {
			break
		}
	}
	if err := r.cmd.Wait(); err != nil {
		return nil, fmt.Errorf("tcpdump: %w", err)
	}
	return frames.Read(r.path)
}

// compared runs traffic while both ends are recorded and demands that the tool
// saw what the source saw, packet for packet, as a wire would have carried it.
func (d *demo) compared(ctx context.Context, name string, source lab.Runner, device, filter string, traffic func() error) (string, error) {
	atSource, err := d.record(ctx, source, device, name+"-source", filter)
	if err != nil {
		return "", err
	}
	atTool, err := d.record(ctx, d.lab.Host("ids"), "weft0", name+"-tool", filter)
	if err != nil {
		return "", err
	}
	if err := traffic(); err != nil {
		return "", err
	}
	if _, err := d.balanced(ctx); err != nil {
		return "", err
	}
	time.Sleep(200 * time.Millisecond) // tcpdump hands over what it holds
	want, err := atSource.stop()
	if err != nil {
		return "", err
	}
	got, err := atTool.stop()
	if err != nil {
		return "", err
	}
	if len(want.Frames) == 0 {
		return "", fmt.Errorf("nothing was captured at the source")
	}
	if diff := frames.Diff(want, got); len(diff) > 0 {
		for _, p := range []string{atSource.path, atTool.path} {
			keep(p)
		}
		return strings.Join(diff[:min(len(diff), 4)], "\n     "), fmt.Errorf("%d packets differ (captures kept in %s)", len(diff), os.TempDir())
	}
	if n := got.Longest(); n > 1514 {
		return "", fmt.Errorf("a frame of %d bytes arrived; the link carries 1514", n)
	}
	if bad, err := badChecksums(ctx, d.lab.Host("ids"), atTool.path); err != nil {
		return "", err
	} else if bad != "" {
		return bad, errors.New("tshark finds wrong checksums in these frames")
	}
	return fmt.Sprintf("%d packets, equal, checksums right", len(got.Frames)), nil
}

// badChecksums lists the frames whose IP, TCP or UDP checksum tshark finds bad.
func badChecksums(ctx context.Context, r lab.Runner, path string) (string, error) {
	out, err := r.Command(ctx, "tshark", "-n", "-Q", "-r", path, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
		"-o", "udp.check_checksum:TRUE", "-Y", "ip.checksum.status==0 || tcp.checksum.status==0 || udp.checksum.status==0",
		"-T", "fields", "-e", "frame.number").Output()
	if err != nil {
		return "", fmt.Errorf("tshark: %w", err)
	}
	return strings.Join(strings.Fields(string(out)), " "), nil
}

// keep copies a capture of a failed step out of the lab's directory.
func keep(path string) {
	if data, err := os.ReadFile(path); err == nil {
		os.WriteFile(filepath.Join(os.TempDir(), filepath.Base(path)), data, 0o600)
	}
}
