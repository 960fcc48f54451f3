// Command api is the middle of the three-tier example: it answers a GET with a
// sum that PostgreSQL works out. Half of its requests open a connection of their
// own, the other half use one that is kept, so that a cut is seen in both.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "github.com/lib/pq"
)

func main() {
	listen := flag.String("listen", ":8080", "address and port")
	database := flag.String("database", "", "where PostgreSQL is, as postgres://postgres@db/postgres?sslmode=disable")
	flag.Parse()
	if err := serve(*listen, *database); err != nil {
		log.Fatal(err)
	}
}

func serve(listen, database string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	kept, err := sql.Open("postgres", database)
	if err != nil {
		return fmt.Errorf("open %s: %w", database, err)
	}
	defer kept.Close()
	fresh, err := sql.Open("postgres", database)
	if err != nil {
		return err
	}
	defer fresh.Close()
	fresh.SetMaxIdleConns(-1)
	fresh.SetMaxOpenConns(8)
	kept.SetMaxOpenConns(4)
	server := &http.Server{Addr: listen, ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			http.Error(w, "ask for /NUMBER", http.StatusNotFound)
			return
		}
		db := kept
		if n%2 == 1 {
			db = fresh
		}
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		var sum int
		if err := db.QueryRowContext(ctx, "SELECT sum(g) FROM generate_series(1, $1) g", n).Scan(&sum); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintln(w, sum)
	})}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
