package access

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

type peerKey struct{}

// ConnContext is for http.Server.ConnContext: it notes the user at the other end
// of a Unix socket (SO_PEERCRED, unix(7)), as the kernel knew it at connect.
// A server without it lets nobody in without a token.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred.Uid)
}

// PeerUID returns what ConnContext noted.
func PeerUID(ctx context.Context) (uint32, bool) {
	uid, ok := ctx.Value(peerKey{}).(uint32)
	return uid, ok
}
