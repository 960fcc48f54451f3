package main

import (
	"context"
	"net"
	"os"
	"time"
)

// serveSocket hands over who connects to a Unix socket in the state directory
// (0600), until ctx ends. An error is that the socket could not be made; the service
// is ready all the same.
func serveSocket(ctx context.Context, path string, ready func(), serve func(net.Conn)) error {
	_ = os.Remove(path) // an earlier agent's; the directory is locked, so it is dead
	l, err := net.Listen("unix", path)
	ready()
	if err != nil {
		return err
	}
	_ = os.Chmod(path, 0o600) // the directory is 0700 already
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors
			continue
		}
		serve(conn)
	}
}
