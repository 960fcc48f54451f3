package demo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"weft/model"
)

// load fetches pages until told to stop; the requests must all succeed, for a
// tap never harms the workload.
func (d *demo) load(ctx context.Context, during func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := output(ctx, d.lab.Host("web-2"), "curl", "-sS", "--fail", "--max-time", "5", "-o", "/dev/null", "http://www/20000"); err != nil {
				done <- fmt.Errorf("the workload was harmed: %w", err)
				return
			}
		}
	}()
	err := during()
	close(stop)
	return errors.Join(err, <-done)
}

func (d *demo) killSource(ctx context.Context) (string, error) { return d.killAgent(ctx, "web-2") }
func (d *demo) killTool(ctx context.Context) (string, error)   { return d.killAgent(ctx, "ids") }

func (d *demo) killAgent(ctx context.Context, name string) (string, error) {
	before, err := d.tap(ctx)
	if err != nil {
		return "", err
	}
	err = d.load(ctx, func() error {
		time.Sleep(500 * time.Millisecond)
		d.procs[name].kill()
		time.Sleep(time.Second)
		if _, err := d.startAgent(ctx, d.lab.Host(name)); err != nil {
			return err
		}
		_, err := d.tapActive(ctx)
		time.Sleep(time.Second)
		return err
	})
	if err != nil {
		return "", err
	}
	return d.went(ctx, before)
}

func (d *demo) restartRelay(ctx context.Context) (string, error) {
	before, err := d.tap(ctx)
	if err != nil {
		return "", err
	}
	err = d.load(ctx, func() error {
		time.Sleep(500 * time.Millisecond)
		d.procs[relayName].kill()
		time.Sleep(500 * time.Millisecond)
		if _, err := d.startRelay(ctx); err != nil {
			return err
		}
		time.Sleep(3 * time.Second)
		_, err := d.tapActive(ctx)
		return err
	})
	if err != nil {
		return "", err
	}
	return d.went(ctx, before)
}

// restartController kills the controller for five seconds under load. The tap
// must deliver meanwhile, and the account be whole afterwards.
func (d *demo) restartController(ctx context.Context) (string, error) {
	before, err := d.tap(ctx)
	if err != nil {
		return "", err
	}
	err = d.load(ctx, func() error {
		d.procs[controllerName].kill()
		time.Sleep(500 * time.Millisecond)
		at, err := d.received(ctx)
		if err != nil {
			return err
		}
		time.Sleep(4 * time.Second)
		now, err := d.received(ctx)
		if err != nil {
			return err
		}
		if now <= at {
			return errors.New("no packet arrived while the controller was away")
		}
		if _, err := d.startController(ctx); err != nil {
			return err
		}
		_, err = retry(ctx, 30*time.Second, func() (string, error) { return d.tapActive(ctx) })
		return err
	})
	if err != nil {
		return "", err
	}
	return d.went(ctx, before)
}

// went demands a balanced ledger that has grown since, and says by how much.
func (d *demo) went(ctx context.Context, before *model.Tap) (string, error) {
	if detail, err := d.balanced(ctx); err != nil {
		return detail, err
	}
	after, err := d.tap(ctx)
	if err != nil {
		return "", err
	}
	was, is := before.Status.Ledger, after.Status.Ledger
	if is.Delivered.Packets <= was.Delivered.Packets {
		return "", fmt.Errorf("delivered %d before, %d after: nothing arrives", was.Delivered.Packets, is.Delivered.Packets)
	}
	return fmt.Sprintf("%d more seen, %d delivered, %d lost and counted", is.Seen.Packets-was.Seen.Packets, is.Delivered.Packets-was.Delivered.Packets,
		is.PathDropped.Packets-was.PathDropped.Packets+is.Shed.Packets-was.Shed.Packets+is.RingDropped.Packets-was.RingDropped.Packets), nil
}

// received is the number of packets that have come in on weft0.
func (d *demo) received(ctx context.Context) (uint64, error) {
	out, err := output(ctx, d.lab.Host("ids"), "cat", "/sys/class/net/weft0/statistics/rx_packets")
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(out), 10, 64)
}
