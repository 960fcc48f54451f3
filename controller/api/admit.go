package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"weft/controller/access"
	"weft/controller/store"
	"weft/model"
)

type callerKey struct{}

type caller struct {
	access.User
	remote string
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

func (c caller) change() store.Change { return store.Change{Actor: c.Actor, Remote: c.remote} }

// admit lets nobody under /api without a token, and no viewer change anything.
// Previews are asked with POST and change nothing.
func (a *API) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		if !strings.HasPrefix(r.URL.Path, "/api/") {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Cache-Control", "no-store")
		user, err := a.guard.Authenticate(r)
		var refused *access.Refusal
		switch {
		case errors.As(err, &refused):
			if refused.Status == http.StatusUnauthorized {
				h.Set("WWW-Authenticate", `Bearer realm="weft"`)
			}
			if refused.RetryAfter > 0 {
				h.Set("Retry-After", strconv.Itoa(int(refused.RetryAfter.Seconds())))
			}
			a.log.Warn("access refused", "remote", r.RemoteAddr, "path", r.URL.Path, "reason", refused.Reason)
			writeProblem(w, problem(refused.Status, "%s", refused.Reason))
			return
		case err != nil:
			var p *Problem
			errors.As(a.asProblem(err), &p)
			writeProblem(w, p)
			return
		}
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead || strings.HasPrefix(r.URL.Path, "/api/v1/preview/")
		if !reads && user.Role != model.AccessAdmin {
			writeProblem(w, problem(http.StatusForbidden, "%s has the role %s, which may read only; use a token of role %s", user.Actor, user.Role, model.AccessAdmin))
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{user, r.RemoteAddr})))
	})
}
