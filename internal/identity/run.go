package identity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"weft/internal/keyfile"
)

const (
	retryFirst = time.Second
	retryMax   = 5 * time.Minute
)

// Run joins if there is no identity, says ready, and renews until ctx ends. It
// returns an error when joining is in vain (the token is wrong, used up or
// refused) or when another program uses the state directory. A renewal that
// fails is no reason to stop: the machine works on by its last state, the
// trouble is logged and shown by Problem, and a new token file is picked up.
func (i *Identity) Run(ctx context.Context, ready func()) error {
	lock, err := keyfile.Lock(filepath.Join(i.cfg.Dir, "identity", "lock"))
	if errors.Is(err, keyfile.ErrLocked) {
		return fmt.Errorf("state directory %s is in use by another program; stop it, or give this one a directory of its own", i.cfg.Dir)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if !i.Joined() {
		if err := i.joinPatiently(ctx); err != nil {
			return err
		}
	}
	ready()
	return i.renewForever(ctx)
}

func (i *Identity) joinPatiently(ctx context.Context) error {
	for wait := retryFirst; ; wait = min(2*wait, time.Minute) {
		err := i.Join(ctx)
		var asked *joinError
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Only what the network did is worth another try.
		if !errors.As(err, &asked) || permanent(asked.err) || untrusted(asked.err) {
			return err
		}
		i.setProblem(err)
		i.log.Warn("join is tried again", "error", err, "after", wait)
		if err := sleep(ctx, jitter(wait)); err != nil {
			return err
		}
	}
}

func (i *Identity) renewForever(ctx context.Context) error {
	wait := retryFirst
	for {
		// At most an hour at a time: clocks get corrected and machines sleep.
		if left := i.state.Load().renewAt().Sub(i.Now()); left > 0 {
			if sleep(ctx, min(left, time.Hour)) != nil {
				return nil
			}
			continue
		}
		err := i.Renew(ctx)
		if errors.Is(err, ErrExpired) && i.cfg.TokenFile != "" {
			if joined := i.Join(ctx); joined == nil {
				err = nil
			} else {
				err = fmt.Errorf("%w; the token in %s did not help: %w", err, i.cfg.TokenFile, joined)
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		i.setProblem(err)
		if err == nil {
			wait = retryFirst
			continue
		}
		i.log.Error("renew certificate", "error", err, "expires", i.Certificate().NotAfter, "again_after", wait)
		if sleep(ctx, jitter(wait)) != nil {
			return nil
		}
		wait = min(2*wait, retryMax)
	}
}

// jitter draws from the upper half of d.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}
