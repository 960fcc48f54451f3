// Command table reads benchmark cells (JSON lines) from standard input and
// writes the page docs/reference/benchmarks.md to standard output, with those that
// earlier runs have left of other sections.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"weft/bench/result"
)

type section struct{ bench, title, text string }

// sections are those of the page, in order, each with what a reader must know.
var sections = []section{
	{"L1", "a lab of many namespaces, up and down", "By `bench/lab`. It is gone when the kernel has no namespace of it left that anything refers to."},
	{"A1", "an idle agent", "By `bench/agent`. All run at the same time on one machine; each is charged the CPU time of its own process. weft holds its connection to the controller meanwhile."},
	{"F5", "watching a machine", "By `bench/monitor`. All run at the same time on one machine whose processes sleep; each is charged the CPU time of its own process. Everybody looks every 2 s. weft's figure is the whole agent while somebody looks, its other work included: what that costs while nobody looks, and what sampling costs in a process that does nothing else, stand below. Aim: 1 % of a core, 40 MB."},
	{"T1", "the cost of a tap", "By `bench/tap`, from the source to the tool: what the whole machine used more than in the same run without a tap. The machine holds source, network, relay and tool; nothing is pinned, so that two cores share all of it. weft encrypts and carries capture times; VXLAN is clear text; tcpdump captures and throws away. Payloads of UDP are random, the worst case for compression. CPU used by other programs is taken off, and is told in the first row: where that is far from 0, the machine was not quiet, and costs are rough and too high. Aim: at most 0.6 of VXLAN, 0.25 CPU-s for each Gbit, 64 MB."},
	{"T3", "harm to the workload", "By `bench/tap`. A stream \"as fast as it goes\" fills both cores by itself, so that all that copies takes from it; the requests leave the machine room. A late request is reckoned from when it was due, unless by less than 2 ms. Aim: at most 2 % of the throughput and 5 % of p99."},
	{"T4", "bytes on the wire", "By `bench/tap`: bytes in and out at the tool's eth0, headers, acknowledgements and control channel included, for each byte of the frames tapped. Offloads are off, so that every packet is counted as it would be on a wire. JSON is made-up text of an API, not compressed by its server and not encrypted. Aim: 0.8 at 64 B, 0.6 for text, no copy cut or lost."},
	{"S1", "a firewall's packets and bits a second", "By `bench/firewall`, which keeps each firewall with each number of rules at a receiver of its own, all of them loaded at once. Each rule allows one address and one port; what none allows is dropped. The peers let established connections pass before any rule, as people have them do. Datagrams have 60 bytes and come from a packet socket, so that only the receiver's firewall has a say; a rate is of packets judged, dropped ones too. Nothing is pinned: packets are judged where the sender's softirq runs, and the sink has what is left of two cores. CPU is the whole machine's, sender and sink included, without what other programs used, which the table tells. weft's nftables driver is given 10,000 rules at most: it takes more than a minute to load 100,000 that have an address each. Open vSwitch is left out: in user space it reads packets from AF_PACKET sockets, and one would measure those. Aim: flat within 5 %."},
	{"S2", "a firewall's connections a second", "By `bench/firewall`: connect, one byte there, one byte back, close. Aim: within 3 % of no firewall at 100,000 rules."},
	{"S3", "a firewall's changes", "By `bench/firewall`, beneath a datagram about every 100 µs, each a new connection. weft's time is all that an agent does with a ruleset that has changed: tables are made from those before, and what a change touches is written. The peers' is that of their program, from its start, and it is told the difference. Aim: the slowest within 5 ms; a swap within 1 s that loses nothing."},
	{"S4", "planning policy", "By `bench/plan`: what the controller does from resources and reports to the sections of every host, its identities and digests included, without reading the store. Whole: from nothing. A change: one policy edited, or one workload added, in turn, until it is known what is to be sent to whom. Memory is what the process took of the system, garbage included, beyond the fleet itself. Nothing is pinned, and other programs ran: where seconds are many times the CPU-seconds, they are the machine's, not the planner's. Peers need a Kubernetes API server and did not run beside it. Aim: 2 s, 600 MB; a change 5 ms."},
	{"S5", "a policy reaches its hosts", "By `bench/publish`: from the write into the store to the moment at which the controller knows that every host that the change is about has acknowledged it. Real store, planner and sessions, each agent with a certificate, a TLS connection and a stream of its own on loopback; agents decode and check the sections, and enforce nothing. Controller and all agents share the two cores with whatever else ran; each agent has ten workloads, and 1 % is every hundredth host. Aim: 1 % in 0.5 s, 100 % in 2 s."},
	{"F1", "bytes that are in flows, and what metering costs", "By `bench/meter`. Two machines send alike to a third: on one weft's agent meters, on the other the peers do, one after the other, or nobody. Bytes are those of IP packets, as the generator counts what it sends; 10,000 flows begin in a second. weft's are asked of the controller, so that they were metered, reported and kept; pmacctd's are in the file that it writes when it ends, softflowd's in its own statistics. Flows that go on have a datagram each now and then; their first round, in which they are new, is charged to nobody. A program's own CPU is that of its processes; what weft's programs in the kernel take, and the peers' packet sockets, falls in the sender's time: the machine's CPU, without what other programs used, is compared with that of the same work where nobody meters. weft's has the controller in it, which keeps what it is told meanwhile; the peers export nothing before they end. Where the difference is as small as its spread, or below nothing, it was lost in the noise. Aim: 100.0 %; 10 % of a core at 100,000 flows."},
	{"F2", "connections and who made them", "By `bench/meter`: four programs, one on a machine and one in each of three containers, connect at the same time, eight connections each, send 200 bytes and have them back; every other connection stays open for 50 ms, the rest are closed at once. A connection counts where its record names both the program and the container. `ss` is asked each second in each network namespace. nethogs knows bytes of processes only: its figure is of those at the machine's interface, once it has caught up, or 30 s after the last connection. Aim: 99.5 % of connections, 99.9 % of bytes."},
	{"F3", "flows taken in", "By `bench/flows`: batches as agents send them, of 500 hosts, are read from protobuf, both ends are named, and they are kept and acknowledged, through the controller's own queue. Making them is not measured. CPU is this program's with DuckDB in it, and the ClickHouse server's too where that keeps them. nfcapd takes the same flows as NetFlow 5, without names, labels, processes and rules, at the rate at which it loses none; its CPU is its own process's, receiving included. weft is with DuckDB. Nothing is pinned, and where other programs ran CPU-seconds are too many. Aim: 200,000 for each CPU-second, none lost."},
	{"F4", "flows on disk, and questions about them", "By `bench/flows`, of the same flows, a day's. Bytes are all files of the database's directory. Each question was asked with DuckDB and with ClickHouse, and before and after summing up, and the answers were compared: they are the same, or there would be no table. ClickHouse is Debian's of 2018, and answers over HTTP on loopback. nfdump reads a file that nfcapd compressed with LZ4, and is asked by address, for it knows no names. weft is with DuckDB. 500 hosts talk to 40 others and 40 names each; how much sums over minutes take depends on how much repeats within one. Aim: 40 bytes; 1 s."},
	{"C2", "relayed and direct streams", "By `bench/relay`."},
}

func main() {
	keep := flag.String("keep", "", "file with the cells of earlier runs; those of the sections that are read take their place there")
	flag.Parse()
	if err := run(*keep, os.Stdout, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "bench/table:", err)
		os.Exit(1)
	}
}

func run(keep string, out io.Writer, in io.Reader) error {
	cells, err := read(in)
	if err != nil {
		return err
	}
	if keep != "" {
		f, err := os.Open(keep)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			earlier, err := read(f)
			f.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", keep, err)
			}
			maps.Copy(earlier, cells)
			cells = earlier
		}
	}
	var page bytes.Buffer
	if err := write(&page, cells); err != nil {
		return err
	}
	if keep != "" {
		var kept bytes.Buffer
		for _, s := range sections {
			if err := result.Write(&kept, cells[s.bench]...); err != nil {
				return err
			}
		}
		if err := os.WriteFile(keep, kept.Bytes(), 0o644); err != nil {
			return err
		}
	}
	_, err = page.WriteTo(out)
	return err
}

// read returns the cells of each section.
func read(in io.Reader) (map[string][]result.Cell, error) {
	cells := map[string][]result.Cell{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var c result.Cell
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("read cell %q: %w", lines.Text(), err)
		}
		if c.Runs == 0 || c.Name == "" {
			return nil, fmt.Errorf("cell %q has no name or no run", lines.Text())
		}
		if !slices.ContainsFunc(sections, func(s section) bool { return s.bench == c.Bench }) {
			return nil, fmt.Errorf("benchmark %q has no section; add one", c.Bench)
		}
		cells[c.Bench] = append(cells[c.Bench], c)
	}
	return cells, lines.Err()
}

func write(out io.Writer, cells map[string][]result.Cell) error {
	if len(cells) == 0 {
		return fmt.Errorf("there are no cells")
	}
	w := bufio.NewWriter(out)
	fmt.Fprint(w, "# Benchmarks\n\nWritten by `make bench`, which runs the peers beside weft in the same run, in turns. Median and interquartile range (IQR) over the runs.\n"+
		"Absolute figures are those of one small shared virtual machine with two cores: compare ratios, not figures of other machines.\n"+
		"A ratio is weft's median divided by the peer's; there is none where the peer's spread is as large as its median.\n")
	for _, s := range sections {
		if len(cells[s.bench]) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n## %s: %s\n\n%s Kernel %s, commit %s.\n\n| what | program | median | IQR | unit | runs | weft / peer | note |\n|---|---|---:|---:|---|---:|---:|---|\n",
			s.bench, s.title, s.text, cells[s.bench][0].Kernel, cells[s.bench][0].Commit)
		for _, c := range cells[s.bench] {
			ratio := ""
			if c.Ratio != 0 {
				ratio = number(c.Ratio)
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %d | %s | %s |\n", c.Name, c.Peer, number(c.Median), number(c.IQR), c.Unit, c.Runs, ratio, c.Note)
		}
	}
	return w.Flush()
}

// number writes three digits, and no exponent.
func number(v float64) string {
	s := strconv.FormatFloat(v, 'g', 3, 64)
	if strings.Contains(s, "e") {
		s = strconv.FormatFloat(v, 'f', 0, 64)
	}
	return s
}
