// Command relay measures C2: how fast a stream between two agents is over a
// relay, next to the same stream directly. It repeats BenchmarkStream of
// cmd/weft, where both agents and the relay share one process and loopback, so
// that what counts is the work: a relayed stream is encrypted three times over.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"weft/bench/result"
)

func main() {
	short := flag.Bool("short", false, "run briefly, to see that it works")
	flag.Parse()
	runs, length := 5, "1s"
	if *short {
		runs, length = 1, "10x"
	}
	if err := measure(runs, length); err != nil {
		fmt.Fprintln(os.Stderr, "bench/relay:", err)
		os.Exit(1)
	}
}

const (
	name = "one stream between two agents, on loopback in one process"
	unit = "MB/s"
)

func measure(runs int, length string) error {
	var series result.Series
	for range runs {
		cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkStream$", "-benchtime", length, "./cmd/weft")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("run the Go benchmark: %w: %s", err, out)
		}
		direct, relayed, err := rates(out)
		if err != nil {
			return err
		}
		series.Add("C2", name, "weft, direct", unit, direct)
		series.Add("C2", name, "weft, relayed", unit, relayed)
		series.Add("C2", name+": relayed / direct", result.Ours, "", relayed/direct)
	}
	series.Note("C2", name+": relayed / direct", result.Ours, "", "TLS on port 443; mark: 0.4")
	return result.Write(os.Stdout, series.Cells()...)
}

// rates reads the MB/s of both sub-benchmarks from go test's output.
func rates(out []byte) (direct, relayed float64, err error) {
	for line := range bytes.Lines(out) {
		f := strings.Fields(string(line))
		if len(f) < 3 || !strings.HasPrefix(f[0], "BenchmarkStream/") {
			continue
		}
		for i, word := range f {
			if word != unit {
				continue
			}
			rate, err := strconv.ParseFloat(f[i-1], 64)
			if err != nil {
				return 0, 0, fmt.Errorf("read %q: %w", line, err)
			}
			if strings.HasPrefix(f[0], "BenchmarkStream/direct") {
				direct = rate
			} else {
				relayed = rate
			}
		}
	}
	if direct == 0 || relayed == 0 {
		return 0, 0, errors.New("the Go benchmark printed no rate: " + string(out))
	}
	return direct, relayed, nil
}
