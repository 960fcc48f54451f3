// Command flows measures F3, how fast the controller takes flows in, and F4, how
// much each takes on disk and how long questions over many take: with DuckDB and
// with ClickHouse, which have to give the same answers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft/bench/result"
	"weft/controller/flowstore"
	"weft/internal/clickhousetest"
	"weft/model"
	"weft/wire/wirepb"
)

func main() {
	short := flag.Bool("short", false, "run briefly, with few flows, to see that it works")
	flows := flag.Int("flows", 10_000_000, "how many flows")
	runs := flag.Int("runs", 5, "how often to ask each question")
	only := flag.String("only", "", "measure this program alone: DuckDB, ClickHouse or nfdump")
	compare := flag.Bool("compare", false, "only compare the answers of both databases, from reports and from sums, to these and more questions; fails where they differ")
	profile := flag.String("profile", "", "write a CPU profile to this file")
	flag.Parse()
	if *short {
		*flows, *runs = 100_000, 1
	}
	if *compare {
		*runs = 1
	}
	if err := run(*flows, *runs, *only, *compare, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "bench/flows:", err)
		os.Exit(1)
	}
}

func run(flows, runs int, only string, compare bool, profile string) error {
	if compare {
		if only != "" {
			return errors.New("-compare is of both databases; leave -only out")
		}
		if _, err := exec.LookPath(clickhousetest.Program); err != nil {
			return fmt.Errorf("compare the databases: %w", err)
		}
		questions = append(questions, everyField()...)
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	dir, err := os.MkdirTemp("", "weft-bench-flows-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var series result.Series
	var answers [][]flowstore.Sums
	for _, name := range []string{"DuckDB", "ClickHouse"} {
		if only != "" && name != only {
			continue
		}
		m := &measurement{series: &series, dir: filepath.Join(dir, name), name: name, flows: flows, runs: runs}
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			return err
		}
		if name == "ClickHouse" {
			if _, err := exec.LookPath(clickhousetest.Program); err != nil {
				fmt.Fprintln(os.Stderr, "bench/flows: no", clickhousetest.Program, "on PATH: it is left out")
				continue
			}
			if m.server, err = clickhousetest.Start(ctx, m.dir); err != nil {
				return err
			}
			defer m.server.Kill()
		}
		got, err := m.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		answers = append(answers, got)
		os.RemoveAll(m.dir)
	}
	if compare || only != "" && only != "nfdump" {
	} else if _, err := exec.LookPath("nfcapd"); err != nil {
		fmt.Fprintln(os.Stderr, "bench/flows: no nfcapd on PATH: it is left out")
	} else if err := nfdump(ctx, &series, filepath.Join(dir, "nfcapd"), flows, runs); err != nil {
		return err
	}
	for i, q := range questions {
		for _, other := range answers[min(1, len(answers)):] {
			if !reflect.DeepEqual(answers[0][i], other[i]) {
				return fmt.Errorf("the databases answer %q differently:\n%+v\n%+v", q.name, answers[0][i], other[i])
			}
		}
		if compare {
			fmt.Printf("%s: alike, %d rows\n", q.name, len(answers[0][i].Items))
		}
	}
	if compare {
		fmt.Printf("%d questions about %d flows, from reports and from sums: DuckDB and ClickHouse answer alike\n", len(questions), flows)
		return nil
	}
	return result.Write(os.Stdout, series.Cells()...)
}

// now is when the flows end; they are of a day.
var now = time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// measurement is of one database.
type measurement struct {
	series *result.Series
	dir    string
	name   string
	server *clickhousetest.Server // nil for the embedded database
	flows  int
	runs   int
}

// What figures are called that peers have too.
const (
	ingested    = "records read, named, kept and acknowledged"
	perFlow     = "each flow as reported"
	fromReports = "from reports"
)

func question(name, from string, flows int) string {
	return fmt.Sprintf("%s, %s of %d flows", name, from, flows)
}

// peer is what the figure is filed under: DuckDB is what weft has by itself.
func (m *measurement) peer() string {
	if m.server == nil {
		return result.Ours
	}
	return result.Ours + ", ClickHouse"
}

func (m *measurement) open(ctx context.Context) (*flowstore.Store, error) {
	cfg := flowstore.Config{Dir: m.dir, Now: func() time.Time { return now }}
	if m.server != nil {
		cfg.ClickHouse = m.server.URL
	}
	return flowstore.Open(ctx, cfg)
}

// chunk is how many flows are made before they are given: making them is not
// measured.
const chunk = 500_000

func (m *measurement) run(ctx context.Context) ([]flowstore.Sums, error) {
	s, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { s.Close() }()
	if err := m.ingest(ctx, s); err != nil {
		return nil, err
	}
	if s.Counts().Flows != uint64(m.flows) {
		return nil, fmt.Errorf("%d flows were kept of %d", s.Counts().Flows, m.flows)
	}
	// What is in a log, or about to be merged, is written when the database closes.
	if err := s.Close(); err != nil {
		return nil, err
	}
	if err := m.size(perFlow); err != nil {
		return nil, err
	}
	if s, err = m.open(ctx); err != nil {
		return nil, err
	}
	before, err := m.ask(ctx, s, fromReports)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	cpu := m.cpu()
	if err := s.Roll(ctx, true); err != nil {
		return nil, err
	}
	m.series.Add("F3", "summing up by minutes and hours", m.peer(), "flows/s", float64(m.flows)/time.Since(began).Seconds())
	m.series.Add("F3", "summing up by minutes and hours", m.peer(), "flows/CPU-s", float64(m.flows)/(m.cpu()-cpu).Seconds())
	if err := s.Close(); err != nil {
		return nil, err
	}
	if err := m.size("each flow, with its part in sums over minutes and hours"); err != nil {
		return nil, err
	}
	if s, err = m.open(ctx); err != nil {
		return nil, err
	}
	after, err := m.ask(ctx, s, "from sums over hours")
	if err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(before, after) {
		return nil, errors.New("sums over hours give other answers than reports")
	}
	return after, nil
}

// ingest gives all flows to the store, as sessions would.
func (m *measurement) ingest(ctx context.Context, s *flowstore.Store) error {
	f := newFleet(1)
	db, err := places(m.dir)
	if err != nil {
		return err
	}
	in := flowstore.NewIngest(s, f, db, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- in.Run(ctx, func() {}) }()
	var took, cpu time.Duration
	for given := 0; given < m.flows; {
		n := min(chunk, m.flows-given)
		list, err := f.messages(n, now.Add(-day+time.Duration(float64(day)*float64(given+n)/float64(m.flows))), time.Minute)
		if err != nil {
			cancel()
			return err
		}
		given += n
		acks := make(chan struct{}, len(list))
		began, cpuBefore := time.Now(), m.cpu()
		for i := range list {
			b, err := list[i].batch()
			if err != nil {
				cancel()
				return err
			}
			for {
				taken, err := in.Take(list[i].id, b, func(*wirepb.FlowAck) { acks <- struct{}{} }, func() {})
				if err != nil {
					cancel()
					return err
				}
				if taken {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
		for range list {
			<-acks
		}
		took, cpu = took+time.Since(began), cpu+m.cpu()-cpuBefore
	}
	cancel()
	m.series.Add("F3", ingested, m.peer(), "flows/s", float64(m.flows)/took.Seconds())
	m.series.Add("F3", ingested, m.peer(), "flows/CPU-s", float64(m.flows)/cpu.Seconds())
	return <-done
}

// cpu is what this program, and the server, have used.
func (m *measurement) cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	used := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	if m.server == nil {
		return used
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.server.PID()))
	if err != nil {
		return used
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, i := range []int{11, 12} { // utime and stime, in hundredths
		n, _ := strconv.Atoi(fields[i])
		used += time.Duration(n) * 10 * time.Millisecond
	}
	return used
}

// size is what the database has on disk.
func (m *measurement) size(name string) error {
	total, err := bytesIn(m.dir)
	if m.server != nil { // whose directory holds for minutes yet what was merged
		total, err = m.server.Bytes()
	}
	m.series.Add("F4", name, m.peer(), "bytes", float64(total)/float64(m.flows))
	return err
}

// ask is a question and what it is called.
type ask struct {
	name string
	flowstore.Query
}

// questions that people save.
var questions = []ask{
	{"top 10 applications", flowstore.Query{By: []string{"client.app", "server.app"}, Limit: 10}},
	{"top 10 clients", flowstore.Query{By: []string{"client"}, Limit: 10}},
	{"top 10 conversations", flowstore.Query{By: []string{"client", "server", "port"}, Limit: 10}},
	{"top 10 names in the world", flowstore.Query{By: []string{"name"}, Order: "connections", Where: where("name"), Limit: 10}},
	{"top 10 processes of production's databases", flowstore.Query{By: []string{"process", "user"}, Where: where("server.tier=db,server.env=prod"), Limit: 10}},
	{"what was denied", flowstore.Query{By: []string{"client.app", "server.app", "rule"}, Order: "connections", Where: where("action!=Allow"), Limit: 100}},
	{"everything", flowstore.Query{}},
}

// everyField is questions that are not measured: by each field that there is, and
// each stretch of time.
func everyField() []ask {
	var out []ask
	for _, f := range flowstore.Fields() {
		out = append(out, ask{"by " + f, flowstore.Query{By: []string{f}, Limit: 10_000}})
	}
	for _, t := range flowstore.Times() {
		out = append(out, ask{"by " + t, flowstore.Query{By: []string{t, "protocol"}}})
	}
	return append(out, ask{"a part of the day", flowstore.Query{By: []string{"client.tier", "server.tier", "port"}, Since: now.Add(-20*time.Hour - 12345*time.Millisecond), Until: now.Add(-100 * time.Minute), Labels: where("env=prod")}})
}

func where(text string) *model.Selector {
	s, err := model.ParseSelector(text)
	if err != nil {
		panic(err)
	}
	return &s
}

func (m *measurement) ask(ctx context.Context, s *flowstore.Store, from string) ([]flowstore.Sums, error) {
	out := make([]flowstore.Sums, len(questions))
	for i, q := range questions {
		for range m.runs {
			began := time.Now()
			a, err := s.Sums(ctx, q.Query)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", q.name, err)
			}
			m.series.Add("F4", question(q.name, from, m.flows), m.peer(), "ms", float64(time.Since(began).Microseconds())/1000)
			out[i] = a
		}
	}
	return out, nil
}
