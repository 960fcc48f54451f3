package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxPage bounds what one request can ask of "weft lab serve".
const maxPage = 1 << 30

func newLabServeCommand() *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve pages of a given size, as something to fetch inside a lab",
		Long:  "Serve HTTP: GET /N answers N bytes of text, anything else a short page that names this host.",
		Example: `  sudo weft lab exec web-2 -- weft lab serve --listen :80
  sudo weft lab exec web-1 -- curl -o /dev/null http://web-2/1000000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return servePages(cmd.Context(), listen) },
	}
	c.Flags().StringVar(&listen, "listen", ":80", "address and port")
	return c
}

func servePages(ctx context.Context, listen string) error {
	server := &http.Server{Handler: http.HandlerFunc(page), ReadHeaderTimeout: 10 * time.Second}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func page(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
	if err != nil || n < 0 || n > maxPage {
		fmt.Fprintf(w, "weft lab: %s\n", r.Host)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	io.CopyN(w, pattern{}, n)
}

// pattern is text without end.
type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	const line = "the quick brown fox jumps over the lazy dog 0123456789\n"
	for i := 0; i < len(p); {
		i += copy(p[i:], line)
	}
	return len(p), nil
}
