package main

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"weft/controller/store"
	"weft/model"
	"weft/policy"
)

// defaultPort is where a controller listens unless told otherwise.
const defaultPort = 7443

// failsafe says what no policy may take away.
func (o controllerOptions) failsafe() (policy.FailsafeOptions, error) {
	out := policy.FailsafeOptions{ControllerPort: o.agentPort}
	if out.ControllerPort == 0 {
		out.ControllerPort = defaultPort
		if _, port, err := net.SplitHostPort(o.listen); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != 0 {
				out.ControllerPort = int(n)
			}
		}
	}
	if out.ControllerPort < 1 || out.ControllerPort > 65535 {
		return out, fmt.Errorf("--agent-port %d is outside 1 to 65535", o.agentPort)
	}
	for _, text := range o.sshFrom {
		p, err := model.ParseCIDR(text)
		if err != nil {
			return out, fmt.Errorf("--failsafe-ssh-from: %w", err)
		}
		out.SSHFrom = append(out.SSHFrom, p)
	}
	return out, nil
}

// noHosts says whether no machine has joined yet.
func noHosts(ctx context.Context, st *store.Store) (bool, error) {
	list, _, err := st.List(ctx, model.KindHost)
	return len(list) == 0, err
}
