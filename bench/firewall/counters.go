package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"weft/lab/netns"
)

// counters are those of a namespace, held open so that reading them costs one
// system call.
type counters struct {
	file *os.File
	buf  [8192]byte
}

// count is what has reached a namespace.
type count struct {
	in       int // IP packets, before any firewall judges them
	overflow int // datagrams for which the sink's buffer had no room
}

func openCounters(path string) (c *counters, err error) {
	c = &counters{}
	err = netns.Do(path, func() (err error) {
		c.file, err = os.Open("/proc/thread-self/net/snmp") // of this namespace for as long as it is open
		return err
	})
	return c, err
}

func (c *counters) read() (count, error) {
	n, err := c.file.ReadAt(c.buf[:], 0)
	if n == 0 {
		return count{}, fmt.Errorf("read a namespace's counters: %w", err)
	}
	lines := strings.Split(string(c.buf[:n]), "\n")
	in, err := field(lines, "Ip:", "InReceives")
	if err != nil {
		return count{}, err
	}
	overflow, err := field(lines, "Udp:", "RcvbufErrors")
	return count{in, overflow}, err
}

// field finds a number by the line of names above its line (proc_pid_net(5)).
func field(lines []string, protocol, name string) (int, error) {
	for i := 0; i+1 < len(lines); i++ {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) < 2 || len(names) != len(values) || names[0] != protocol {
			continue
		}
		for k := range names {
			if names[k] == name {
				return strconv.Atoi(values[k])
			}
		}
		i++
	}
	return 0, fmt.Errorf("read a namespace's counters: there is no %s %s", protocol, name)
}

func (c *counters) close() error { return c.file.Close() }
