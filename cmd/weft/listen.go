package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// serveAPI serves until ctx ends; requests that last (watches, sessions) end
// with it. A server with a TLS configuration serves HTTPS.
func serveAPI(server *http.Server, listen func() (net.Listener, error)) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		listener, err := listen()
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		server.ReadHeaderTimeout = 10 * time.Second
		server.BaseContext = func(net.Listener) context.Context { return ctx }
		stop := context.AfterFunc(ctx, func() {
			grace, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			if server.Shutdown(grace) != nil {
				server.Close()
			}
		})
		defer stop()
		ready()
		if server.TLSConfig != nil {
			err = server.ServeTLS(listener, "", "")
		} else {
			err = server.Serve(listener)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// listenUnix listens on a socket that only root and one user may open. A
// socket that nobody answers on is of a controller that was killed.
func listenUnix(path string, owner int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s: another controller answers there; give --socket another path", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is there and no socket; give --socket another path", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The guard asks the kernel who is there; the mode only keeps others away earlier.
	err = os.Chmod(path, 0o600)
	if owner != 0 { // root opens it whoever owns it, and a controller that is not root cannot give it away
		err = errors.Join(err, os.Chown(path, owner, -1))
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
