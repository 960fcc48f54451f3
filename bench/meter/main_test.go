package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What peers print is read as they print it.
func TestPeersWords(t *testing.T) {
	line := `ESTAB 0      0            10.9.0.13:41234      10.9.0.11:8100  users:(("call-host",pid=77,fd=5))`
	if m := processOf.FindStringSubmatch(line); m == nil || m[1] != "41234" || m[2] != "call-host" {
		t.Errorf("ss: %q", m)
	}
	if m := processOf.FindStringSubmatch(strings.Replace(line, ":8100", ":8101", 1)); m != nil {
		t.Errorf("ss: another port's connection is %q", m)
	}
	if m := datagramBytes.FindStringSubmatch("Per-protocol statistics:     Octets      Packets   Avg Life    Max Life\n           udp (17):       16713723        29869       0.00s       0.00s\n"); m == nil || m[1] != "16713723" {
		t.Errorf("softflowd: %q", m)
	}

	refreshed := make(chan struct{}, 1)
	most := nethogsBytes(strings.NewReader("Adding local address: 10.9.0.13\n\nRefreshing:\n/run/call-host connect x/77/0\t100\t20\nunknown TCP/0/0\t5\t0\n\nRefreshing:\n/run/call-host connect x/77/0\t300\t20\n"), refreshed)
	if most["/run/call-host connect x/77/0"] != 320 || most["unknown TCP/0/0"] != 5 || len(most) != 2 || len(refreshed) != 1 {
		t.Errorf("nethogs: %v", most)
	}

	file := filepath.Join(t.TempDir(), "table.csv")
	if err := os.WriteFile(file, []byte("SRC_IP,DST_IP,SRC_PORT,DST_PORT,PROTOCOL,PACKETS,BYTES\n127.0.0.1,127.0.0.1,60590,7001,udp,1,31\n127.0.0.1,127.0.0.1,35618,7002,udp,2,62\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := pmacctdBytes(file); err != nil || n != 93 {
		t.Errorf("pmacctd: %d, %v", n, err)
	}
}
