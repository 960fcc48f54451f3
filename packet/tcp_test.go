package packet

import "testing"

func TestTCPFlagsText(t *testing.T) {
	for bits := range 256 {
		f := TCPFlags(bits)
		if got := ParseTCPFlags(f.String()); got != f {
			t.Errorf("%#x is written as %q, and read as %#x", bits, f, uint8(got))
		}
	}
	if got := TCPFlags(TCPSyn | TCPAck | TCPPsh).String(); got != "SPA" {
		t.Errorf("%q", got)
	}
}

func TestTCPStateSeen(t *testing.T) {
	for _, x := range []struct {
		client, server string
		want           TCPState
	}{
		{"", "", TCPNone}, {"S", "", TCPSynSent}, {"S", "SA", TCPSynReceived}, {"SA", "SA", TCPEstablished}, {"A", "", TCPEstablished}, {"", "PA", TCPEstablished},
		{"SFA", "SA", TCPClosing}, {"SFA", "SFA", TCPClosed}, {"S", "RA", TCPClosed},
	} {
		if got := TCPStateSeen(ParseTCPFlags(x.client), ParseTCPFlags(x.server)); got != x.want {
			t.Errorf("client %s, server %s: %s, not %s", x.client, x.server, got, x.want)
		}
	}
}
