package identity

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
)

// ErrExpired says that the certificate's life is over and that only a join
// with a new token brings the program back.
var ErrExpired = errors.New("certificate expired: join again with a new token (write it to the token file, or run the join command)")

// ErrNotJoined says that there is no identity yet.
var ErrNotJoined = errors.New("this machine has not joined: give it a join token")

// alertExpired is how the controller's TLS says that our certificate's time is
// over (RFC 8446, section 6).
const alertExpired tls.AlertError = 45

// expiredByPeer tells whether the other side's TLS refused our
// certificate because its time is over.
func expiredByPeer(err error) bool {
	var alert tls.AlertError
	if errors.As(err, &alert) {
		return alert == alertExpired
	}
	// net/http wraps the alert of a handshake that ends late (TLS 1.3) in
	// errors that do not unwrap.
	return err != nil && strings.Contains(err.Error(), alertExpired.Error())
}

// permanent tells whether asking again with the same token is in vain.
func permanent(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeInvalidArgument,
		connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeNotFound, connect.CodeUnimplemented:
		return true
	}
	return false
}

// said makes a person's sentence of what the controller answered.
func said(err error) string {
	var ce *connect.Error
	if errors.As(err, &ce) {
		return ce.Message()
	}
	return err.Error()
}

// untrustedError says that the controller cannot be told to be ours.
type untrustedError struct{ error }

func (e *untrustedError) Unwrap() error { return e.error }

func untrusted(err error) bool {
	var u *untrustedError
	return errors.As(err, &u)
}

// pinError says that the controller is not the one that the token names.
func pinError(want string, got []string) error {
	return &untrustedError{fmt.Errorf("controller is not the one this token is for: the token names authority %s, the controller presents %s; "+
		"check the controller's address, and that nobody answers in its place", short(want), strings.Join(got, ", "))}
}

func short(pin string) string {
	if len(pin) > 16 {
		return pin[:16] + "…"
	}
	return pin
}
