// Command table reads benchmark cells (JSON lines) from standard input and
// writes the page docs/reference/benchmarks.md to standard output.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"weft/bench/result"
)

var titles = map[string]string{
	"L1": "L1: a lab of many namespaces, up and down (`bench/lab`)",
	"A1": "A1: an idle agent (`bench/agent`)",
	"T1": "T1: the cost of a tap (`bench/tap`)",
}

func main() {
	var cells []result.Cell
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var c result.Cell
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			fmt.Fprintf(os.Stderr, "table: %q: %v\n", in.Text(), err)
			os.Exit(1)
		}
		cells = append(cells, c)
	}
	fmt.Print(`# Benchmarks

Written by ` + "`make bench`" + `, which runs the peers beside weft in the same run. Median and interquartile range over the runs.
Absolute figures are those of one small shared virtual machine with two cores: compare ratios, not figures of other machines.
A ratio is weft's median divided by the peer's.
`)
	var bench string
	for _, c := range cells {
		if c.Bench != bench {
			bench = c.Bench
			fmt.Printf("\n## %s\n\nKernel %s, commit %s.\n\n| what | program | median | IQR | unit | runs | weft / peer | note |\n|---|---|---:|---:|---|---:|---:|---|\n", titles[bench], c.Kernel, c.Commit)
		}
		ratio := ""
		if c.Ratio != 0 {
			ratio = number(c.Ratio)
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %d | %s | %s |\n", c.Name, c.Peer, number(c.Median), number(c.IQR), c.Unit, c.Runs, ratio, c.Note)
	}
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }
