package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"weft/agent/datapath"
	"weft/agent/datapath/bpf"
	"weft/agent/flow"
)

// removeKernelObjects takes away all that the agent has put into the kernel,
// with no agent running: taps, policy, the account of flows.
func removeKernelObjects(_ context.Context, c config) error {
	silent := func(string) *slog.Logger { return slog.New(slog.DiscardHandler) }
	l, err := newLines(c, nil, silent)
	if err != nil {
		return err
	}
	err = errors.Join(l.taps.Remove(), l.landing.Remove(), datapath.RemoveLeft(drivers(c, cgroupRoot(c), bpf.Deps{Log: silent("datapath")})), flow.Remove(flowPins(c)))
	if _, there := os.Stat(c.BPFDir); there == nil && err == nil {
		os.Remove(c.BPFDir) // stays where it is a mount of its own
	}
	return err
}
