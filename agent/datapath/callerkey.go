package datapath

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"weft/internal/keyfile"
)

// CallerKey is this machine's part of the secrets under which machines tell each
// other who calls (X25519, RFC 7748). It never leaves the machine.
type CallerKey struct {
	private *ecdh.PrivateKey
	shared  map[string][]byte // with each peer, by its public key
}

// Term is how long a secret is used. The ones before and after it are accepted
// too, so that clocks may differ by as much, and a machine whose agent is down is
// believed for as long.
const Term = 7 * 24 * time.Hour

// TermOf numbers the term of a moment.
func TermOf(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) / uint64(Term/time.Second) }

// OpenCallerKey reads the 32 bytes of a key's file, or draws a key and writes it.
// One that is damaged is drawn anew: peers learn of it by the controller.
func OpenCallerKey(file string) (*CallerKey, error) {
	raw, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the key for telling who calls: %w", err)
	}
	if err == nil {
		if k, err := ecdh.X25519().NewPrivateKey(raw); err == nil {
			return &CallerKey{private: k, shared: map[string][]byte{}}, nil
		}
	}
	k, err := NewCallerKey()
	if err != nil {
		return nil, err
	}
	if err := keyfile.Write(file, k.private.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("write the key for telling who calls: %w", err)
	}
	return k, nil
}

// NewCallerKey draws one that is kept nowhere.
func NewCallerKey() (*CallerKey, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw the key for telling who calls: %w", err)
	}
	return &CallerKey{private: k, shared: map[string][]byte{}}, nil
}

// Public is what others need, 32 bytes.
func (k *CallerKey) Public() []byte { return k.private.PublicKey().Bytes() }

// caller is one end of a pair of machines.
type caller struct {
	number uint32
	public []byte
}

// secrets derives what own seals calls to peer with in a term, and what it accepts
// from there: of the term, the one before and the one after.
func (k *CallerKey) secrets(own uint32, peer caller, term uint64) (call Secret, accept []Secret, err error) {
	shared, err := k.agree(peer.public)
	if err != nil {
		return call, nil, err
	}
	self := caller{own, k.Public()}
	if call, err = deriveSecret(shared, self, peer, term); err != nil {
		return call, nil, err
	}
	for t := max(term, 1) - 1; t <= term+1; t++ {
		s, err := deriveSecret(shared, peer, self, t)
		if err != nil {
			return call, nil, err
		}
		accept = append(accept, s)
	}
	return call, accept, nil
}

// agree computes what only the two machines can. It is kept: this is what costs.
func (k *CallerKey) agree(public []byte) ([]byte, error) {
	if s := k.shared[string(public)]; s != nil {
		return s, nil
	}
	p, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("read a machine's public key: %w", err)
	}
	s, err := k.private.ECDH(p)
	if err != nil {
		return nil, fmt.Errorf("agree on a secret: %w", err)
	}
	if len(k.shared) >= 1<<17 {
		clear(k.shared) // machines that are gone
	}
	k.shared[string(public)] = s
	return s, nil
}

// deriveSecret is HKDF-SHA256 (RFC 5869) over the agreed secret; the context is
// what the secret is for: calls from one machine to another in one term.
func deriveSecret(shared []byte, from, to caller, term uint64) (out Secret, err error) {
	context := bytes.NewBufferString("weft who calls 1\x00")
	for _, c := range []caller{from, to} {
		binary.Write(context, binary.BigEndian, c.number)
		context.Write(c.public)
	}
	binary.Write(context, binary.BigEndian, term)
	raw, err := hkdf.Key(sha256.New, shared, nil, context.String(), len(out))
	if err != nil {
		return out, fmt.Errorf("derive a secret: %w", err)
	}
	return Secret(raw), nil
}
