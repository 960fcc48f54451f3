package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"weft/model"
)

// onceRows is how many rows of a list are printed.
const onceRows = 20

// Once prints one sample, or the fleet, as a table or as JSON.
func Once(ctx context.Context, cfg Config, w io.Writer, width int, output string) error {
	o, err := cfg.check()
	if err != nil {
		return err
	}
	if output != "table" && output != "json" {
		return fmt.Errorf("-o %s is none of table, json", output)
	}
	s := screen{browse: cfg.Fleet != nil, host: cfg.Host, order: o, interval: cfg.Interval, found: true}
	if s.browse && s.host == "" {
		if s.fleet, err = cfg.Fleet(ctx); err != nil {
			return err
		}
		if output == "json" {
			return encode(w, s.fleet)
		}
		t := fleetTable(s.fleet, "")
		g := newGrid(width, len(t.rows)+1)
		t.draw(g, 0, g.height, &cursor{})
		return print(w, g)
	}
	x, err := first(ctx, cfg)
	if err != nil {
		return err
	}
	if output == "json" {
		return encode(w, x)
	}
	s.take(x, time.Now())
	const tall = 64 // more than a header takes
	g := newGrid(width, tall+onceRows)
	loads(g, g.put(0, 0, plain, fmt.Sprintf("%s  up %s", x.Host, span(x.Uptime))), x)
	g.right(g.width, 0, plain, x.Time.UTC().Format("15:04:05")+" UTC")
	y := header(g, x)
	t := processTable(x, o, "", false)
	t.rows = t.rows[:min(len(t.rows), onceRows)]
	t.draw(g, y, g.height, &cursor{})
	return print(w, g)
}

// first waits for a sample with rates.
func first(parent context.Context, cfg Config) (*model.Sample, error) {
	ctx, cancel := context.WithTimeout(parent, cfg.Interval+10*time.Second)
	defer cancel()
	var found *model.Sample
	err := cfg.Feed(ctx, cfg.Host, func(x *model.Sample, age time.Duration) {
		if x.Seconds > 0 && found == nil && age < 2*cfg.Interval+again {
			found = x
			cancel()
		}
	})
	switch {
	case found != nil:
		return found, nil
	case parent.Err() != nil:
		return nil, parent.Err()
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("no figures of %s came within %s; is its agent online? weft get hosts", cfg.Host, cfg.Interval+10*time.Second)
	}
	return nil, err
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// print writes a frame as text. The cursor's mark is none here.
func print(w io.Writer, g *grid) error {
	var b strings.Builder
	for l := range strings.Lines(g.String()) {
		if rest, marked := strings.CutPrefix(l, ">"); marked {
			l = " " + rest
		}
		b.WriteString(l)
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}
