package main

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"weft/agent/discover"
	"weft/agent/transport"
	"weft/internal/run"
	"weft/wire"
	"weft/wire/wirepb"
)

// lines wires the two ends of a tap: the reconciler of "capture", which takes
// packets at workloads, and that of "deliver", which hands them to a tool.
//
// INTEGRATION: this is the one place where agent/capture and agent/deliver are
// made. New packages go into connect, their Run into services, their Apply into
// applyDeliver and applyCapture, the accepting end into accept, the ledger into
// report. Until then a section with lines fails with an error that says so, and
// an empty one holds.
type lines struct {
	config config
	found  *discover.Discover
}

func newLines(c config, found *discover.Discover) *lines { return &lines{config: c, found: found} }

// connect makes the reconcilers, which dial by the transport.
func (l *lines) connect(*transport.Transport, func(part string) *slog.Logger) error { return nil }

func (l *lines) services() []run.Service { return nil }

var errNoLines = errors.New("this build of the agent neither captures nor delivers packets")

func (l *lines) applyDeliver(_ context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
	if len(s.GetDeliver().GetLines()) > 0 {
		return nil, errNoLines
	}
	return nil, nil
}

func (l *lines) applyCapture(_ context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
	if len(s.GetCapture().GetLines()) > 0 {
		return nil, errNoLines
	}
	return nil, nil
}

// accept serves a stream that another agent has opened.
func (l *lines) accept(_ context.Context, conn net.Conn, _ wire.Identity) { conn.Close() }

func (l *lines) report() *wirepb.LineReport { return nil }

// removeKernelObjects takes away all that the agent has put into the kernel,
// with no agent running.
//
// INTEGRATION: the Remove of agent/capture and agent/deliver.
func removeKernelObjects(context.Context, config) error { return nil }
