package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// helper is the program that the test binary becomes inside the lab. Each ends
// with SIGTERM.
func helper(name string, args []string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	switch name {
	case "serve":
		return serveNoise(ctx)
	case "load":
		return load(ctx, args[0], args[1])
	case "echo":
		return echo(ctx, args)
	case "answer":
		return answer(ctx, args[0])
	case "ask":
		return ask(args[0], args[1], args[2])
	case "call":
		return call(args[0], args[1])
	case "receive":
		return receive(ctx, args[0], args[1], args[2])
	case "sink":
		return sink(ctx, args[0], args[1])
	case "scatter":
		return scatter(args[0], args[1], args[2], args[3])
	case "hold":
		return hold(ctx, args)
	case "knock":
		return knock(ctx, args[0])
	case "visitors":
		return visit(ctx, args[0])
	case "listen": // and answer nobody
		l, err := net.Listen("tcp", args[0])
		if err != nil {
			return err
		}
		defer l.Close()
		<-ctx.Done()
		return nil
	case "hold-open": // whoever calls, and say nothing
		return holdOpen(ctx, args[0])
	case "burn": // a processor, under a name of its own
		if err := os.WriteFile("/proc/self/comm", []byte("weft-burn"), 0); err != nil {
			return err
		}
		for ctx.Err() == nil {
		}
		return nil
	case "etcd":
		return serveEtcd(ctx, args[0])
	}
	return fmt.Errorf("no helper %q", name)
}

// serveNoise answers GET /N with N bytes that cannot be compressed.
func serveNoise(ctx context.Context) error {
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.CopyN(w, rand.NewChaCha8([32]byte{byte(n)}), n)
	})}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// holdOpen takes connections and what is said there, and answers nothing.
func holdOpen(ctx context.Context, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			io.Copy(io.Discard, conn) //nolint:errcheck // it ends with whoever called
		}()
	}
}

// figures are what the client counted; it prints them when it ends.
type figures struct {
	Requests, Failed int
	Longest          time.Duration
	FirstError       string
}

// load fetches a page again and again, each over a connection of its own, with
// a pause in between, until it is told to end.
func load(ctx context.Context, address, pause string) error {
	every, err := time.ParseDuration(pause)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	var f figures
	for ctx.Err() == nil {
		began := time.Now()
		err := fetch(client, address)
		f.Requests++
		f.Longest = max(f.Longest, time.Since(began))
		if err != nil {
			f.Failed++
			if f.FirstError == "" {
				f.FirstError = err.Error()
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

func fetch(client *http.Client, address string) error {
	res, err := client.Get(address)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && n != res.ContentLength {
		err = fmt.Errorf("%d of %d bytes came", n, res.ContentLength)
	}
	return err
}

// serveEtcd is an etcd of the owner's, as --etcd wants one.
func serveEtcd(ctx context.Context, dir string) error {
	cfg := embed.NewConfig()
	cfg.Dir = dir
	client, peer := url.URL{Scheme: "http", Host: "127.0.0.1:2379"}, url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	<-ctx.Done()
	etcd.Close()
	return nil
}
