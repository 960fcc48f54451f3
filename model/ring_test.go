package model

import "testing"

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{"7": 7, "10KiB": 10 << 10, "10MiB": 10 << 20, "1GiB": 1 << 30, "": 0, "0": 0, "10MB": 0, "-1": 0} {
		if n, err := ParseSize(text); n != want || (err == nil) != (want > 0) {
			t.Errorf("%q is %d, %v", text, n, err)
		}
	}
}
