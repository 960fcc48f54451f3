package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"weft/lab/topology"
)

// Hosts that are attached to the same switches resolve the same names and
// share one file. A host with containers has its own, with theirs added.

func (l *Lab) viewFile(n *topology.Node) string {
	return filepath.Join(labDir(l.ID), "names", n.View())
}

// writeViews writes the names files.
func (l *Lab) writeViews() error {
	if err := os.MkdirAll(filepath.Join(labDir(l.ID), "names"), 0o755); err != nil {
		return err
	}
	done := map[string]bool{}
	for _, n := range l.plan.Nodes {
		if done[n.View()] {
			continue
		}
		done[n.View()] = true
		if err := os.WriteFile(l.viewFile(n), []byte(l.viewText(n)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) viewText(n *topology.Node) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, e := range l.plan.Names(n) {
		fmt.Fprintf(&b, "%s %s\n", e.Addr, strings.Join(e.Names, " "))
	}
	return b.String()
}

func (h *Host) namesFile() string {
	if own := filepath.Join(h.dir(), "hosts"); exists(own) {
		return own
	}
	return h.lab.viewFile(h.node)
}

// writeNames gives a host with containers a names file of its own. It is
// written in place: those who have it bound keep seeing it.
func (h *Host) writeNames() error {
	var b strings.Builder
	b.WriteString(h.lab.viewText(h.node))
	for _, c := range h.containers {
		fmt.Fprintf(&b, "%s %s\n", c.address, c.Name)
	}
	return os.WriteFile(filepath.Join(h.dir(), "hosts"), []byte(b.String()), 0o644)
}

func (h *Host) resolvFile() string {
	if own := filepath.Join(h.dir(), "resolv.conf"); exists(own) {
		return own
	}
	return filepath.Join(labDir(h.lab.ID), "resolv.conf")
}

// noResolver makes a look-up of an unknown name fail at once.
const noResolver = "# This host has no resolver: names are in /etc/hosts.\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n"

func (h *Host) writeResolv() error {
	if h.node.Host == nil || len(h.node.Host.DNS) == 0 {
		return nil
	}
	var b strings.Builder
	for _, a := range h.node.Host.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return os.WriteFile(filepath.Join(h.dir(), "resolv.conf"), []byte(b.String()), 0o644)
}
