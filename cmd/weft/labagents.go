package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"weft/cmd/weft/inlab"
	"weft/lab"
)

// labAgents says whether a controller and agents run in a lab, and how.
type labAgents struct {
	wanted bool
	args   []string
}

// flags are the command line that says the same.
func (a labAgents) flags() []string {
	if !a.wanted {
		return nil
	}
	out := []string{"--agents"}
	for _, arg := range a.args {
		out = append(out, "--agent-arg", arg)
	}
	return out
}

// up starts them, where they are wanted.
func (a labAgents) up(ctx context.Context, l *lab.Lab) (*inlab.Fleet, error) {
	if !a.wanted {
		return nil, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return inlab.Up(ctx, inlab.Config{Bin: filepath.Dir(self), AgentArgs: a.args}, l)
}
