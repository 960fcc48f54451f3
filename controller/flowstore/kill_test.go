package flowstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/clickhousetest"
)

// keeperEnv makes the test's program one that keeps batch after batch: in a
// directory, or by a URL.
const keeperEnv = "WEFT_TEST_FLOW_KEEPER"

const perBatch = 40

func keeperConfig(where string) Config {
	cfg := Config{Dir: where, Now: func() time.Time { return noon }}
	if strings.HasPrefix(where, "http:") {
		cfg.ClickHouse = where
	}
	return cfg
}

// keeper keeps batches and prints the number of each that it would acknowledge.
func keeper(where string) error {
	ctx := context.Background()
	s, err := Open(ctx, keeperConfig(where))
	if err != nil {
		return err
	}
	number := uint64(1)
	for s.Has("u", 1, number) {
		number++
	}
	for ; ; number++ {
		b := Batch{HostUID: "u", Epoch: 1, Number: number}
		for range perBatch {
			b.Flows = append(b.Flows, flow("web", "db", 5432, number))
		}
		if err := s.Append(ctx, []Batch{b}); err != nil {
			return err
		}
		fmt.Println(number)
		if number%5 == 0 {
			if err := s.Roll(ctx, number%10 == 0); err != nil {
				return err
			}
		}
	}
}

// A program that is killed while it keeps flows has kept what it acknowledged, and
// of the rest all of a batch or nothing; the next goes on from there.
func TestKilledKeeper(t *testing.T) {
	t.Run("DuckDB", func(t *testing.T) { killKeeper(t, t.TempDir(), func() {}) })
	t.Run("ClickHouse", func(t *testing.T) {
		s := clickhousetest.For(t)
		killKeeper(t, s.URL+"/killed", func() {
			s.Kill()
			if err := s.Run(context.Background()); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// A controller starts where ClickHouse is not there yet, and goes on once it is.
func TestServerThatIsAway(t *testing.T) {
	server := clickhousetest.For(t)
	server.Kill()
	ctx := context.Background()
	s, err := Open(ctx, keeperConfig(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: []Flow{flow("web", "db", 5432, 1)}}
	if err := s.Append(ctx, []Batch{b}); !errors.Is(err, ErrAway) {
		t.Errorf("append: %v", err)
	}
	if _, err := s.Sums(ctx, Query{}); !errors.Is(err, ErrAway) {
		t.Errorf("sums: %v", err)
	}
	if err := server.Run(ctx); err != nil {
		t.Fatal(err)
	}
	appendTo(t, s, b)
	server.Kill()
	if _, err := s.Sums(ctx, Query{}); !errors.Is(err, ErrAway) {
		t.Errorf("sums, when it has gone again: %v", err)
	}
	if err := server.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := sums(t, s, "", Query{}); len(got) != 1 || got[0].Connections != 1 {
		t.Errorf("%+v", got)
	}
	if _, err := Open(ctx, Config{ClickHouse: strings.Replace(server.URL, "//", "//nobody@", 1)}); err == nil || errors.Is(err, ErrAway) {
		t.Errorf("a user that is not there: %v", err)
	}
	for _, bad := range []string{"ftp://x", "http://", "http://u:secret@x/weft", "http://x/we;ft", "nonsense"} {
		if _, err := Open(ctx, Config{ClickHouse: bad}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// killKeeper kills the keeper again and again, every other time along with the
// server.
func killKeeper(t *testing.T, where string, restart func()) {
	last := 0
	for round := range 6 {
		out, kill := startKeeper(t, where)
		lines := bufio.NewScanner(out)
		for range 3 + rand.IntN(8) {
			if !lines.Scan() {
				break
			}
			last, _ = strconv.Atoi(lines.Text())
		}
		time.AfterFunc(time.Duration(rand.IntN(20_000))*time.Microsecond, kill)
		if round%2 == 1 {
			restart()
		}
		for lines.Scan() { // what it acknowledged before it died
			last, _ = strconv.Atoi(lines.Text())
		}
		kill()
	}
	s, err := Open(context.Background(), keeperConfig(where))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	kept := last
	if s.Has("u", 1, uint64(last+1)) {
		kept++ // and died before it could say so
	}
	if !s.Has("u", 1, uint64(last)) || s.Has("u", 1, uint64(kept+1)) {
		t.Fatalf("%d was acknowledged last, and it is not the last that is kept", last)
	}
	got, want := sums(t, s, "", Query{}), uint64(perBatch*kept*(kept+1)/2)
	if got[0].Connections != uint64(perBatch*kept) || got[0].Sent.Bytes != want {
		t.Errorf("%d connections and %d bytes of %d batches, want %d and %d", got[0].Connections, got[0].Sent.Bytes, kept, perBatch*kept, want)
	}
}

func startKeeper(t *testing.T, where string) (*os.File, func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), keeperEnv+"="+where)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // it ends with the thread that started it
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	err = <-started
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, func() {
		cmd.Process.Kill()
		<-ended
	}
}
