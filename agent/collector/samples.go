package collector

import (
	"encoding/binary"
	"fmt"
)

// countAt is where samples of a format say how many records they have (sFlow 5):
// flow, counter, expanded flow, expanded counter, dropped packet.
var countAt = map[uint32]int{1: 28, 2: 8, 3: 40, 4: 12, 5: 28}

// checkSamples refuses a datagram whose samples claim more records than they have
// room for: goflow2 makes room for what is claimed. What is cut off or of another
// kind is goflow2's to refuse.
func checkSamples(b []byte) error {
	const head, record = 8, 8
	if len(b) < 8 {
		return nil
	}
	start := 28
	if binary.BigEndian.Uint32(b[4:]) == 2 { // the agent's address is IPv6
		start += 12
	}
	if len(b) < start {
		return nil
	}
	for b = b[start:]; len(b) >= head; {
		format, n := binary.BigEndian.Uint32(b), int(binary.BigEndian.Uint32(b[4:]))
		if n > len(b)-head {
			return nil
		}
		sample := b[head : head+n]
		if at, known := countAt[format]; known && n >= at+4 {
			if claimed := int(binary.BigEndian.Uint32(sample[at:])); claimed > (n-at-4)/record {
				return fmt.Errorf("a sample claims %d records in %d bytes", claimed, n)
			}
		}
		b = b[head+n:]
	}
	return nil
}
