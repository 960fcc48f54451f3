package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"weft/controller/store"
	"weft/model"
	"weft/wire"
)

// User is who makes a request.
type User struct {
	Actor string           `json:"actor" doc:"As the audit log names them: token/NAME or socket/uid-N."`
	Role  model.AccessRole `json:"role"`
}

// Refusal is why somebody may not come in.
type Refusal struct {
	Status int // HTTP
	Reason string
	// RetryAfter is set where trying again later makes sense.
	RetryAfter time.Duration
}

func (r *Refusal) Error() string { return r.Reason }

// A remote address that fails more often than this is told to wait. Tokens that
// are right are let in all the same: many people may share one address, and a
// secret of 256 bits is not found by guessing.
const (
	failuresPerMinute = 10
	maxRemotes        = 4096
)

// Guard checks requests against the stored tokens. It is safe for concurrent use.
type Guard struct {
	store *store.Store
	uids  []uint32 // let in over the Unix socket
	now   func() time.Time

	mu       sync.Mutex
	failures map[string]*rate.Limiter
}

// NewGuard makes a guard; uids are let in over the Unix socket as root is: the
// controller's own, and whoever the socket was given to.
func NewGuard(s *store.Store, uids ...int) *Guard {
	g := &Guard{store: s, now: time.Now, failures: map[string]*rate.Limiter{}}
	for _, uid := range uids {
		g.uids = append(g.uids, uint32(uid))
	}
	return g
}

// Authenticate says who makes a request; the error is a *Refusal unless the
// store failed.
func (g *Guard) Authenticate(r *http.Request) (User, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		if uid, ok := PeerUID(r.Context()); ok {
			if uid == 0 || slices.Contains(g.uids, uid) {
				return User{Actor: fmt.Sprintf("socket/uid-%d", uid), Role: model.AccessAdmin}, nil
			}
			return User{}, &Refusal{Status: http.StatusForbidden, Reason: fmt.Sprintf("uid %d may not use the controller's socket without a token; run the command as root, or log in: weft login URL --token-file FILE", uid)}
		}
		return User{}, &Refusal{Status: http.StatusUnauthorized, Reason: "no access token; log in: weft login URL --token-file FILE, or send the header Authorization: Bearer TOKEN"}
	}
	user, err := g.token(r.Context(), header)
	var refused *Refusal
	if errors.As(err, &refused) && !g.mayFail(remoteHost(r)) {
		return User{}, &Refusal{Status: http.StatusTooManyRequests, Reason: "too many wrong tokens from this address; wait a minute", RetryAfter: time.Minute}
	}
	return user, err
}

func (g *Guard) token(ctx context.Context, header string) (User, error) {
	refuse := func(format string, args ...any) error {
		return &Refusal{Status: http.StatusUnauthorized, Reason: fmt.Sprintf(format, args...)}
	}
	scheme, text, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return User{}, refuse("the Authorization header is not of the form Bearer TOKEN")
	}
	token, err := wire.ParseToken(wire.PrefixAccess, text)
	if err != nil {
		return User{}, refuse("%v", err)
	}
	if model.CheckName(token.Name) != nil {
		return User{}, refuse("token is damaged: its name is none")
	}
	unknown := refuse("access token %q is not known here; it may have been deleted, or be of another controller", token.Name)
	hash, err := g.store.Secret(ctx, model.KindAccessToken, token.Name)
	if errors.Is(err, store.ErrNotFound) {
		return User{}, unknown
	}
	if err != nil {
		return User{}, err
	}
	if !token.HashEqual(string(hash)) {
		return User{}, unknown
	}
	stored, err := g.store.Get(ctx, model.KindAccessToken, token.Name)
	if errors.Is(err, store.ErrNotFound) {
		return User{}, unknown
	}
	if err != nil {
		return User{}, err
	}
	t := stored.(*model.AccessToken)
	if expired(t, g.now()) {
		return User{}, refuse("access token %q ran out at %s; ask for a new one: weft access create", token.Name, t.Status.Expires.Format(time.RFC3339))
	}
	return User{Actor: "token/" + token.Name, Role: RoleOf(t)}, nil
}

// mayFail counts one failure against an address.
func (g *Guard) mayFail(remote string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.failures[remote]
	if l == nil {
		if len(g.failures) >= maxRemotes {
			clear(g.failures) // forgets the guilty too, for one minute's worth of tries
		}
		l = rate.NewLimiter(rate.Every(time.Minute/failuresPerMinute), failuresPerMinute)
		g.failures[remote] = l
	}
	return l.AllowN(g.now(), 1)
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
