package main

import (
	"log/slog"
	"net"
	"strconv"

	"weft/internal/sandbox"
)

// needs are the capabilities that the agent works with; the unit says what each
// is for, and gives no others.
var needs = []string{"net_admin", "bpf", "perfmon", "net_raw", "sys_admin", "sys_ptrace", "dac_read_search", "sys_resource"}

// confine gives up for good what the agent does not need, and says what came
// about: `weft describe host` shows it.
func confine(c config, log *slog.Logger) sandbox.Report {
	if c.Sandbox == "off" {
		log.Warn("the agent keeps all its rights: sandbox is off in the configuration")
		return sandbox.Off("off in the configuration")
	}
	keep := needs
	ports := []string{c.Listen}
	for _, l := range c.Collectors {
		ports = append(ports, l.Listen)
	}
	for _, address := range ports {
		if _, port, err := net.SplitHostPort(address); err == nil {
			if n, err := strconv.Atoi(port); err == nil && n > 0 && n < 1024 {
				keep = append([]string{"net_bind_service"}, needs...)
			}
		}
	}
	r := sandbox.Enter(keep...)
	if missing := r.Missing(); len(missing) > 0 {
		log.Warn("the agent keeps more rights than it needs", "missing", missing)
	}
	return r
}
