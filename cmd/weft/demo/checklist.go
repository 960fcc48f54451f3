package demo

import (
	"context"
	"fmt"
	"io"
	"time"
)

// step is one thing a demo does or checks.
type step struct {
	name string
	run  func(ctx context.Context) (detail string, err error)
}

// checklist prints "ok  NAME" or "FAIL NAME" for each step and counts them.
type checklist struct {
	out            io.Writer
	passed, failed int
}

const stepLimit = 2 * time.Minute

func (c *checklist) run(ctx context.Context, s step) bool {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	detail, err := s.run(ctx)
	c.record(s.name, detail, err)
	return err == nil
}

func (c *checklist) record(name, detail string, err error) {
	switch {
	case err != nil:
		c.failed++
		fmt.Fprintf(c.out, "FAIL %s: %v\n", name, err)
		if detail != "" {
			fmt.Fprintf(c.out, "     %s\n", detail)
		}
	case detail != "":
		c.passed++
		fmt.Fprintf(c.out, "ok   %s (%s)\n", name, detail)
	default:
		c.passed++
		fmt.Fprintf(c.out, "ok   %s\n", name)
	}
}

// verdict prints the last line and returns an error where a step failed.
func (c *checklist) verdict() error {
	fmt.Fprintf(c.out, "%d passed, %d failed\n", c.passed, c.failed)
	if c.failed > 0 {
		return ErrFailed
	}
	return nil
}
