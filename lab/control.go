package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"weft/lab/topology"
)

// The owner of a lab does for other processes what only it can: it listens on
// a Unix socket in the run directory, which root alone may open. Methods of a
// Lab from Open that change something go there.

type linkChange struct {
	Link       string      `json:"link"`
	Cut        *bool       `json:"cut,omitempty"`
	Impairment *Impairment `json:"impairment,omitempty"`
}

func controlPath(id string) string { return filepath.Join(labDir(id), "control.sock") }

func (l *Lab) remote() bool { return l.lock == nil }

// serveControl answers other processes until the lab goes down.
func (l *Lab) serveControl() error {
	old := unix.Umask(0o177)
	listener, err := net.Listen("unix", controlPath(l.ID))
	unix.Umask(old)
	if err != nil {
		return fmt.Errorf("listen for other processes: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hosts/{host}/start", answer(func(r *http.Request) error {
		return l.StartHost(r.PathValue("host"))
	}))
	mux.HandleFunc("POST /hosts/{host}/containers", answer(func(r *http.Request) error {
		h := l.Host(r.PathValue("host"))
		if h == nil {
			return fmt.Errorf("lab %s has no host %q", l.ID, r.PathValue("host"))
		}
		var spec topology.Container
		if err := readBody(r, &spec); err != nil {
			return err
		}
		_, err := h.AddContainer(spec)
		return err
	}))
	mux.HandleFunc("DELETE /hosts/{host}/containers/{container}", answer(func(r *http.Request) error {
		h := l.Host(r.PathValue("host"))
		if h == nil {
			return fmt.Errorf("lab %s has no host %q", l.ID, r.PathValue("host"))
		}
		return h.RemoveContainer(r.PathValue("container"))
	}))
	mux.HandleFunc("POST /links", answer(func(r *http.Request) error {
		var c linkChange
		if err := readBody(r, &c); err != nil {
			return err
		}
		if c.Impairment != nil {
			if err := l.SetLink(c.Link, *c.Impairment); err != nil {
				return err
			}
		}
		if c.Cut != nil {
			return l.setCut(c.Link, *c.Cut)
		}
		return nil
	}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(listener)
	l.onDown(server.Close)
	return nil
}

func readBody(r *http.Request, v any) error {
	dec := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

func answer(f func(r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := f(r); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// call asks the owner of a lab.
func (l *Lab) call(method, path string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", controlPath(l.ID))
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("reach the owner of lab %s: %w", l.ID, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return errors.New(string(bytes.TrimSpace(text)))
}
