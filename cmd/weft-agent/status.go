package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"weft/agent"
	"weft/internal/version"
)

// statusSocket is a Unix socket in the state directory (0600): whoever
// connects is sent the status as JSON. The agent needs no port for it.
const statusSocket = "status.sock"

type status struct {
	Version string       `json:"version"`
	PID     int          `json:"pid"`
	Problem string       `json:"problem,omitempty"`
	Agent   agent.Status `json:"agent"`
}

type statusServer struct {
	path    string
	agent   *agent.Agent
	problem func() error
}

func newStatusServer(dir string, a *agent.Agent, problem func() error) *statusServer {
	return &statusServer{filepath.Join(dir, statusSocket), a, problem}
}

// Run answers until ctx ends. That the socket cannot be made (a path that is
// too long, a full disk) is no reason not to tap.
func (s *statusServer) Run(ctx context.Context, ready func()) error {
	err := serveSocket(ctx, s.path, ready, func(conn net.Conn) {
		st := status{Version: version.Version, PID: os.Getpid(), Agent: s.agent.Status()}
		if err := s.problem(); err != nil {
			st.Problem = err.Error()
		}
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_ = json.NewEncoder(conn).Encode(st)
		conn.Close()
	})
	if err != nil {
		<-ctx.Done()
	}
	return nil
}

func newStatusCommand() *cobra.Command {
	var f flags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent on this machine is doing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load()
			if c.StateDir == "" {
				return err
			}
			st, err := readStatus(c.StateDir)
			if err != nil {
				return err
			}
			return showStatus(cmd.OutOrStdout(), st, asJSON)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func readStatus(dir string) (status, error) {
	var st status
	conn, err := net.DialTimeout("unix", filepath.Join(dir, statusSocket), 2*time.Second)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return st, fmt.Errorf("read status: %w; use sudo", err)
	case err != nil:
		return st, fmt.Errorf("no agent is running with state directory %s (%w); see: systemctl status weft-agent", dir, err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if err := json.NewDecoder(conn).Decode(&st); err != nil {
		return st, fmt.Errorf("read status: %w", err)
	}
	return st, nil
}

func showStatus(w io.Writer, st status, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(st)
	}
	word := "connected"
	if !st.Agent.Connected {
		word = "NOT connected"
	}
	fmt.Fprintf(w, "agent       %s, process %d\ncontroller  %s: %s for %s\n", st.Version, st.PID, st.Agent.Controller, word, time.Since(st.Agent.Since).Round(time.Second))
	for _, line := range []string{st.Agent.Error, st.Problem} {
		if line != "" {
			fmt.Fprintf(w, "            %s\n", line)
		}
	}
	for _, s := range st.Agent.Sections {
		state := "applied"
		if s.Error != "" {
			state = s.Error
		}
		fmt.Fprintf(w, "section     %-10s %.8s  %s\n", s.Name, s.Digest, state)
	}
	return nil
}
