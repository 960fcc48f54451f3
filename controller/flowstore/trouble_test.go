package flowstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/clickhousetest"
	"weft/internal/testreq"
)

// trouble is a way to a server on which what is written gets lost, or is written
// and nobody hears of it, or comes when nobody expects it any more.
type trouble struct {
	server string
	*rand.Rand

	mu    sync.Mutex
	quiet bool
	late  []held
}

type held struct {
	url  string
	body []byte
}

func (x *trouble) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	h := held{x.server + r.URL.String(), body}
	for len(x.late) > 0 && x.IntN(3) == 0 {
		n := x.IntN(len(x.late))
		x.late[n].send(io.Discard)
		x.late = append(x.late[:n], x.late[n+1:]...)
	}
	if writes := strings.Contains(r.URL.Query().Get("query")+string(body[:min(len(body), 20)]), "INSERT"); writes && !x.quiet {
		switch x.IntN(8) {
		case 0: // lost
			w.WriteHeader(http.StatusBadGateway)
			return
		case 1: // written, and nobody hears of it
			h.send(io.Discard)
			w.WriteHeader(http.StatusBadGateway)
			return
		case 2: // comes later
			x.late = append(x.late, h)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
	}
	var answer bytes.Buffer
	w.WriteHeader(h.send(&answer))
	w.Write(answer.Bytes())
}

func (h held) send(answer io.Writer) int {
	resp, err := http.Post(h.url, "", bytes.NewReader(h.body))
	if err != nil {
		return http.StatusBadGateway
	}
	defer resp.Body.Close()
	io.Copy(answer, resp.Body)
	return resp.StatusCode
}

// Whatever becomes of what is written, and however often the controller is
// killed, each batch counts once, as a report and in the sums.
func TestEachBatchCountsOnceThroughTrouble(t *testing.T) {
	testreq.Need(t, clickhousetest.Program)
	ctx := context.Background()
	seeds := uint64(3)
	if os.Getenv("WEFT_REQUIRE") == "" {
		seeds = 1
	}
	for seed := range seeds {
		way := &trouble{server: sharedServer(t), Rand: rand.New(rand.NewPCG(seed, 5)), quiet: true}
		front := httptest.NewServer(way)
		defer front.Close()
		now := noon
		cfg := Config{ClickHouse: front.URL + fmt.Sprintf("/trouble%d", seed), Now: func() time.Time { return now }}
		s, err := Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		way.mu.Lock()
		way.quiet = false
		way.mu.Unlock()
		killed := 0
		again := func() { // as after kill -9: nothing is remembered
			killed++
			for {
				next, err := Open(ctx, cfg)
				if err == nil {
					s = next
					return
				}
			}
		}
		choose := rand.New(rand.NewPCG(seed, 6))
		var acknowledged uint64
		for number := uint64(1); number <= 25; number++ {
			f := flow("web", "db", 5432, number)
			f.Time = noon.Add(time.Duration(number) * 20 * time.Second)
			now = f.Time
			b := []Batch{{HostUID: "u", Epoch: 1, Number: number, Lost: number, Flows: []Flow{f, f}}}
			for s.Append(ctx, b) != nil {
				if choose.IntN(2) == 0 {
					again()
				}
			}
			acknowledged += 2 * number
			if !s.Has("u", 1, number) {
				t.Fatalf("seed %d: batch %d was acknowledged and is not there", seed, number)
			}
			if choose.IntN(4) == 0 && s.Roll(ctx, choose.IntN(2) == 0) != nil && choose.IntN(2) == 0 {
				again()
			}
			if choose.IntN(10) == 0 {
				again() // at a good moment
			}
			got := sums(t, s, "", Query{})
			if got[0].Connections != 2*number || got[0].Sent.Bytes != acknowledged {
				t.Fatalf("seed %d: after batch %d: %d connections and %d bytes, want %d and %d", seed, number, got[0].Connections, got[0].Sent.Bytes, 2*number, acknowledged)
			}
			list, _, err := s.List(ctx, Query{}, Cursor{})
			if err != nil || uint64(len(list)) != 2*number {
				t.Fatalf("seed %d: after batch %d: %d reports, %v", seed, number, len(list), err)
			}
		}
		if s.Lost() != 25 {
			t.Errorf("seed %d: %d lost, want 25", seed, s.Lost())
		}
		t.Logf("seed %d: killed %d times, %d fences", seed, killed, len(s.at[reports].fences))
	}
}
