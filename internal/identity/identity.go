// Package identity is who a joined program (an agent or a relay) is: a private
// key made on the machine that never leaves it, a short-lived certificate from
// the controller that is renewed unattended, and the TLS configurations that
// follow from the two.
//
// It is neither the agent's nor the relay's, because those two never import
// one another and both need all of it.
//
// On disk it is one file, DIR/identity/identity.pem (mode 0600), replaced as a
// whole, so that key, certificate and authorities always belong together:
//
//	-----BEGIN PRIVATE KEY-----   PKCS#8, made anew with each certificate
//	-----BEGIN CERTIFICATE-----   the leaf; header "Received": when, RFC 3339
//	-----BEGIN CERTIFICATE-----   the authorities, one block each
//
// DIR/identity/lock keeps two programs from sharing a state directory.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"weft/internal/keyfile"
	"weft/model"
	"weft/wire"
)

// Config says who to be and where to ask.
type Config struct {
	Dir        string // state directory; files go to Dir/identity
	Controller string // "https://HOST:PORT"
	// TokenFile holds a join token. It is read when there is no identity, or
	// when the controller says that the present one is over.
	TokenFile string
	Role      model.Role
	Name      string   // wanted; the controller decides
	Addresses []string // a relay's "HOST:PORT"
	// Now is the machine's own clock; time.Now unless given. What the
	// controller says of the time is kept beside it, see Identity.Now.
	Now func() time.Time
}

// Deps are what New needs from its surroundings.
type Deps struct {
	Log *slog.Logger
	// Track sees every TCP connection to the controller and returns what is used
	// in its place; nil leaves them as they are.
	Track func(net.Conn) net.Conn
}

// Identity is safe for concurrent use. Before the first certificate is here
// ID is zero and the TLS configurations fail their handshakes.
type Identity struct {
	cfg   Config
	log   *slog.Logger
	track func(net.Conn) net.Conn
	clock clock

	state   atomic.Pointer[state] // nil until joined
	client  *http.Client
	problem atomic.Pointer[error]

	exposed sync.Once // warned that others may read the token

	mu sync.Mutex // held while the state is replaced
}

// state is one generation: replaced, never changed.
type state struct {
	id       wire.Identity
	cert     tls.Certificate // chain holds the leaf alone
	received time.Time       // by the corrected clock
	early    float64         // share of its life by which it is renewed early
	bundle   []*x509.Certificate
	roots    *x509.CertPool
}

// New reads the identity that is on disk, if any. It opens no connection.
func New(cfg Config, deps Deps) (*Identity, error) {
	u, err := url.Parse(cfg.Controller)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("controller %q: want https://HOST:PORT", cfg.Controller)
	}
	if cfg.Role != model.RoleHost && cfg.Role != model.RoleRelay {
		return nil, fmt.Errorf("role %q: want host or relay", cfg.Role)
	}
	if err := model.CheckName(cfg.Name); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	i := &Identity{cfg: cfg, log: deps.Log, track: deps.Track}
	i.clock.local = cfg.Now
	i.client = i.newHTTPClient()
	data, err := keyfile.ReadSecret(i.path())
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	st, err := parseState(data)
	if err != nil {
		return nil, fmt.Errorf("read identity %s: %w; remove the file and join again with a new token", i.path(), err)
	}
	if st.id.Role != cfg.Role {
		return nil, fmt.Errorf("identity %s is %s, not a %s; use another state directory", i.path(), st.id, cfg.Role)
	}
	i.state.Store(st)
	return i, nil
}

func (i *Identity) path() string { return filepath.Join(i.cfg.Dir, "identity", "identity.pem") }

// Joined says whether there is an identity at all.
func (i *Identity) Joined() bool { return i.state.Load() != nil }

// ID is the identity that the controller gave; zero before that.
func (i *Identity) ID() wire.Identity {
	if st := i.state.Load(); st != nil {
		return st.id
	}
	return wire.Identity{}
}

// Certificate returns the present leaf, nil before there is one.
func (i *Identity) Certificate() *x509.Certificate {
	if st := i.state.Load(); st != nil {
		return st.cert.Leaf
	}
	return nil
}

// Problem is what is wrong with the identity at the moment, nil when nothing
// is: a renewal that fails, an expired certificate, a clock that is far off.
func (i *Identity) Problem() error {
	if p := i.problem.Load(); p != nil {
		return *p
	}
	return nil
}

func (i *Identity) setProblem(err error) {
	if err == nil {
		i.problem.Store(nil)
		return
	}
	i.problem.Store(&err)
}

// Now is the time by which certificates of others are judged: the machine's
// clock, corrected by the controller's where the two are more than two seconds
// apart.
func (i *Identity) Now() time.Time { return i.clock.now() }

// Skew is how far the controller's clock is ahead of this machine's, as last
// seen; zero within two seconds.
func (i *Identity) Skew() time.Duration { return time.Duration(i.clock.offset.Load()) }

// ObserveTime notes the controller's clock. Responses to the client of
// HTTPClient are noted by themselves; a session does it better with the
// nanoseconds of its heartbeats.
func (i *Identity) ObserveTime(controller time.Time) { i.clock.observe(controller) }

// SetBundle replaces the authorities, as a Welcome names them. The new ones
// are saved before they count.
func (i *Identity) SetBundle(pemBytes []byte) error {
	bundle, err := parseBundle(pemBytes)
	if err != nil {
		return fmt.Errorf("read authorities: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.state.Load()
	if old == nil || sameBundle(old.bundle, bundle) {
		return nil
	}
	next := *old
	next.bundle, next.roots = bundle, poolOf(bundle)
	return i.replace(&next)
}

// replace saves a state and makes it the present one. mu is held.
func (i *Identity) replace(next *state) error {
	data, err := next.encode()
	if err != nil {
		return err
	}
	if err := keyfile.Write(i.path(), data, 0o600); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	i.state.Store(next)
	return nil
}
