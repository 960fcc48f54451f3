package main

import (
	"strconv"
	"time"
)

// noisy is the share of one core that other programs may use during a
// measurement before it is worth repeating.
const noisy = 0.2

// quietest measures until the machine was quiet, or patience has run out, and
// returns the quietest measurement with the CPU-seconds it cost the machine.
// after, if not nil, clears up after each.
func quietest[T any](b *bench, measure func() (T, error), after func() error) (best T, cost float64, err error) {
	least := 0.0
	for try := 0; ; try++ {
		began := time.Now()
		from, err := b.meter.Now()
		if err != nil {
			return best, 0, err
		}
		started := time.Now()
		out, err := measure()
		if err != nil {
			return best, 0, err
		}
		used, foreign, err := b.meter.Since(from)
		if err != nil {
			return best, 0, err
		}
		others := foreign / time.Since(started).Seconds()
		if try == 0 || others < least {
			best, cost, least = out, used, others
		}
		if after != nil {
			if err := after(); err != nil {
				return best, 0, err
			}
		}
		if try > 0 {
			b.patience -= time.Since(began)
		}
		if least < noisy || try == 3 || b.patience <= 0 {
			b.series.Add("S1", "CPU that other programs used meanwhile", "everybody else", "% of a core", least*100)
			return best, cost, nil
		}
	}
}

// grouped writes 100000 as 100,000.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
