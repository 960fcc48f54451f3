package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"connectrpc.com/connect"

	"weft/wire"
	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

const callTimeout = 20 * time.Second

// Join trades the token in the token file for an identity. It makes one try.
func (i *Identity) Join(ctx context.Context) error {
	token, err := i.readToken()
	if err != nil {
		return err
	}
	key, csr, err := i.joinKey()
	if err != nil {
		return fmt.Errorf("make private key: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client := i.pinnedClient(token.Pin)
	defer client.CloseIdleConnections()
	res, err := wirepbconnect.NewControllerClient(client, i.cfg.Controller).Join(ctx, connect.NewRequest(&wirepb.JoinRequest{
		Token: token.String(), Role: string(i.cfg.Role), Name: i.cfg.Name, Csr: csr, Addresses: i.cfg.Addresses,
	}))
	if err != nil {
		return &joinError{i.cfg.Controller, err}
	}
	bundle, err := parseBundle(res.Msg.CaBundle)
	if err != nil {
		return fmt.Errorf("join %s: %w", i.cfg.Controller, err)
	}
	st, err := newState(key, res.Msg.Certificate, bundle, i.Now())
	if err != nil {
		return fmt.Errorf("join %s: %w", i.cfg.Controller, err)
	}
	if st.id.Role != i.cfg.Role {
		return fmt.Errorf("join %s: asked for role %s, was named %s", i.cfg.Controller, i.cfg.Role, st.id)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.replace(st); err != nil {
		return err
	}
	if err := os.Remove(i.joinKeyPath()); err != nil {
		i.log.Warn("remove the key of the finished join", "error", err)
	}
	i.client.CloseIdleConnections()
	i.setProblem(nil)
	i.log.Info("joined", "identity", st.id.String(), "expires", st.cert.Leaf.NotAfter)
	return nil
}

// joinError keeps the controller's answer, whose code says whether to ask again.
type joinError struct {
	controller string
	err        error
}

func (e *joinError) Error() string { return "join " + e.controller + ": " + said(e.err) }
func (e *joinError) Unwrap() error { return e.err }

func (i *Identity) readToken() (wire.Token, error) {
	if i.cfg.TokenFile == "" {
		return wire.Token{}, ErrNotJoined
	}
	info, err := os.Stat(i.cfg.TokenFile)
	if err != nil {
		return wire.Token{}, fmt.Errorf("read join token: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		i.exposed.Do(func() {
			i.log.Warn("anyone on this machine may read the join token", "file", i.cfg.TokenFile, "remedy", "chmod 600 "+i.cfg.TokenFile)
		})
	}
	if info.Size() > 4096 {
		return wire.Token{}, fmt.Errorf("read join token %s: it has %d bytes; is it the right file?", i.cfg.TokenFile, info.Size())
	}
	data, err := os.ReadFile(i.cfg.TokenFile)
	if err != nil {
		return wire.Token{}, fmt.Errorf("read join token: %w", err)
	}
	token, err := wire.ParseToken(wire.PrefixJoin, string(data))
	if err != nil {
		return wire.Token{}, fmt.Errorf("read join token %s: %w", i.cfg.TokenFile, err)
	}
	return token, nil
}

// Renew asks for the next certificate, with a new key. It makes one try. The
// error wraps ErrExpired where only a new token helps.
func (i *Identity) Renew(ctx context.Context) error {
	before := i.state.Load()
	if before == nil {
		return ErrNotJoined
	}
	key, csr, err := newKey()
	if err != nil {
		return fmt.Errorf("make private key: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := wirepbconnect.NewControllerClient(i.client, i.cfg.Controller).Renew(ctx, connect.NewRequest(&wirepb.RenewRequest{Csr: csr}))
	if err != nil {
		// Whether time is over is for the controller to say: our own clock
		// may be wrong.
		if expiredByPeer(err) || i.expiredAtController(ctx) {
			return fmt.Errorf("renew %s: %w", before.id, ErrExpired)
		}
		return fmt.Errorf("renew %s: %s: %w", before.id, said(err), err)
	}
	bundle, err := parseBundle(res.Msg.CaBundle)
	if err != nil {
		return fmt.Errorf("renew %s: %w", before.id, err)
	}
	st, err := newState(key, res.Msg.Certificate, bundle, i.Now())
	if err != nil {
		return fmt.Errorf("renew %s: %w", before.id, err)
	}
	if st.id != before.id {
		return fmt.Errorf("renew %s: %w", before.id, errors.New("was named "+st.id.String()))
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.replace(st); err != nil {
		return err
	}
	// Connections in use keep the old certificate, which is still good.
	i.client.CloseIdleConnections()
	i.log.Debug("certificate renewed", "expires", st.cert.Leaf.NotAfter)
	return nil
}
