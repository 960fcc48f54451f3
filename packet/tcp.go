package packet

// TCPFlags are flags of TCP's header, or all that were seen of several: what
// IPFIX calls tcpControlBits.
type TCPFlags uint8

// String has a letter for each flag, as tcpdump writes them.
func (f TCPFlags) String() string { return flagTexts[f] }

const flagLetters = "FSRPAUEC"

// flagTexts has all that there can be, so that writing one costs no memory.
var flagTexts = func() (texts [256]string) {
	for bits := range texts {
		var out []byte
		for i := range len(flagLetters) {
			if bits&(1<<i) != 0 {
				out = append(out, flagLetters[i])
			}
		}
		texts[bits] = string(out)
	}
	return texts
}()

// ParseTCPFlags reads what String wrote. What is no letter of a flag is left out.
func ParseTCPFlags(s string) (f TCPFlags) {
	for i := range len(flagLetters) {
		for j := range len(s) {
			if s[j] == flagLetters[i] {
				f |= 1 << i
			}
		}
	}
	return f
}

// TCPState is where a TCP connection is (RFC 9293, 3.3.2, as an observer sees it).
type TCPState uint8

// The states.
const (
	TCPNone TCPState = iota
	TCPSynSent
	TCPSynReceived
	TCPEstablished
	TCPClosing
	TCPClosed
)

var stateTexts = [...]string{"", "syn-sent", "syn-received", "established", "closing", "closed"}

func (s TCPState) String() string {
	if int(s) < len(stateTexts) {
		return stateTexts[s]
	}
	return ""
}

// TCPStates are all, TCPNone the first.
func TCPStates() []string { return stateTexts[:] }

// TCPStateSeen tells the state by the flags that each end of a connection has sent,
// where no more is known of it.
func TCPStateSeen(client, server TCPFlags) TCPState {
	both := client | server
	switch {
	case both == 0:
		return TCPNone
	case both&TCPRst != 0 || client&server&TCPFin != 0:
		return TCPClosed
	case both&TCPFin != 0:
		return TCPClosing
	case server == 0:
		if client&TCPAck != 0 {
			return TCPEstablished // its first packets were not seen
		}
		return TCPSynSent
	case client&TCPAck != 0 || server&TCPSyn == 0:
		return TCPEstablished
	}
	return TCPSynReceived
}
