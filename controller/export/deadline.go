package export

import (
	"context"
	"net"
	"time"
)

// until ends what a connection waits for when ctx ends; the caller calls stop.
func until(ctx context.Context, conn net.Conn) (stop func()) {
	conn.SetDeadline(time.Time{})                                               //nolint:errcheck // a closed one says so next
	off := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // as above
	return func() { off() }
}
