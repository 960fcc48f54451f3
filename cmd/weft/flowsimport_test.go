package main

import (
	"testing"

	"weft/cmd/weft/conversations"
	"weft/packet"
)

// A conversation of a capture is kept with the flags of each end, and the state
// that they tell.
func TestImportedConversationsHaveAState(t *testing.T) {
	r := recordOf(&conversations.Conversation{Protocol: packet.ProtoTCP, SentFlags: packet.ParseTCPFlags("SA"), ReceivedFlags: packet.ParseTCPFlags("SPAF")})
	if r.TCPState != packet.TCPClosing || r.SentFlags.String() != "SA" || r.ReceivedFlags.String() != "FSPA" {
		t.Errorf("%s, %s sent, %s received", r.TCPState, r.SentFlags, r.ReceivedFlags)
	}
	if r = recordOf(&conversations.Conversation{Protocol: packet.ProtoUDP}); r.TCPState != packet.TCPNone {
		t.Errorf("UDP is %s", r.TCPState)
	}
}
