package model

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Ring keeps the packets of a tap on the machines they were seen on, the oldest
// going where there is no room. Nothing leaves a machine until `weft capture
// --since` asks for it.
type Ring struct {
	// Size is how much each host keeps at most, as 512MiB or 4GiB; 256MiB unless
	// given. Packets are compressed.
	Size string `json:"size,omitempty"`
	// Age is how long packets are kept at most, as 30m; 1h unless given, at most 720h.
	Age string `json:"age,omitempty"`
}

// Limits and defaults of rings.
const (
	DefaultRingSize = 256 << 20
	MinRingSize     = 8 << 20
	MaxRingSize     = 1 << 40
	DefaultRingAge  = time.Hour
	MinRingAge      = 10 * time.Second
	MaxRingAge      = 720 * time.Hour
)

// Bytes is Size, or its default.
func (r Ring) Bytes() uint64 {
	if n, err := ParseSize(r.Size); err == nil {
		return n
	}
	return DefaultRingSize
}

// Duration is Age, or its default.
func (r Ring) Duration() time.Duration {
	if d, err := time.ParseDuration(r.Age); err == nil {
		return d
	}
	return DefaultRingAge
}

func (r Ring) check(e *FieldErrors, field string) {
	if r.Size != "" {
		if n, err := ParseSize(r.Size); err != nil {
			e.add(field+".size", err)
		} else if n < MinRingSize || n > MaxRingSize {
			e.add(field+".size", fmt.Errorf("%s is outside 8MiB to 1024GiB", r.Size))
		}
	}
	if r.Age != "" {
		if d, err := parseTTL(r.Age, MaxRingAge); err != nil {
			e.add(field+".age", err)
		} else if d < MinRingAge {
			e.add(field+".age", fmt.Errorf("%s is shorter than %s", d, MinRingAge))
		}
	}
}

// ParseSize reads a number of bytes, as 10MiB.
func ParseSize(text string) (uint64, error) {
	number, unit := text, uint64(1)
	for suffix, n := range map[string]uint64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = rest, n
		}
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no size; write bytes, or 10KiB, 10MiB, 1GiB", text)
	}
	return n * unit, nil
}

// RingStatus is what a host keeps for a tap.
type RingStatus struct {
	// Tap is the tap's name.
	Tap string `json:"tap"`
	// Oldest and Newest are when the first and the last packet was that is kept, by
	// the host's clock; unset where none is.
	Oldest *time.Time `json:"oldest,omitempty"`
	Newest *time.Time `json:"newest,omitempty"`
	// Bytes are kept, of at most Size.
	Bytes uint64 `json:"bytes"`
	Size  uint64 `json:"size"`
	// Lost are packets that passed the filter and could not be kept, since the tap
	// began here; what is gone for its age or for want of room is not among them.
	Lost uint64 `json:"lost"`
	// Message says what is wrong.
	Message string `json:"message,omitempty"`
}
