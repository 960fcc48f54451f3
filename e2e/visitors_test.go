package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// visitors is how many ask the shop at once; each waits visitPause after an answer.
const (
	visitors   = 4
	visitPause = 10 * time.Millisecond
)

// visit asks a shop for sums until it is told to end, half of the time over a new
// connection, and prints what it counted.
func visit(ctx context.Context, shop string) error {
	var mu sync.Mutex
	var f figures
	var all sync.WaitGroup
	for range visitors {
		all.Go(func() {
			kept := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
			fresh := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			for i := 0; ctx.Err() == nil; i++ {
				client := kept
				if i%2 == 1 {
					client = fresh
				}
				began := time.Now()
				err := buy(client, shop)
				mu.Lock()
				f.Requests++
				f.Longest = max(f.Longest, time.Since(began))
				if err != nil {
					f.Failed++
					if f.FirstError == "" {
						f.FirstError = time.Now().Format(time.TimeOnly) + " " + err.Error()
					}
				}
				mu.Unlock()
				time.Sleep(visitPause)
			}
		})
	}
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(f)
}

// buy asks for one sum and checks it.
func buy(client *http.Client, shop string) error {
	n := 1 + rand.IntN(1000)
	res, err := client.Get(fmt.Sprintf("%s/%d", shop, n))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		return err
	}
	if want := fmt.Sprint(n * (n + 1) / 2); res.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != want {
		return fmt.Errorf("%s: %q, want %s", res.Status, body, want)
	}
	return nil
}
