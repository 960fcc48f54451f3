package top

import "unicode/utf8"

// key is a character, or one of those below.
type key rune

// The keys that are no characters.
const (
	keySpecial key = utf8.MaxRune + 1 + iota
	keyUp
	keyDown
	keyLeft
	keyRight
	keyPageUp
	keyPageDown
	keyHome
	keyEnd
)

// The keys that are control characters.
const (
	keyInterrupt key = 3
	keyTab       key = 9
	keyEnter     key = 13
	keyEscape    key = 27
	keyBackspace key = 127
)

var finals = map[byte]key{'A': keyUp, 'B': keyDown, 'C': keyRight, 'D': keyLeft, 'H': keyHome, 'F': keyEnd}
var tildes = map[string]key{"1": keyHome, "7": keyHome, "4": keyEnd, "8": keyEnd, "5": keyPageUp, "6": keyPageDown}

// keys reads what a terminal has sent at one time. A sequence that means nothing
// here is passed over.
func keys(b []byte) []key {
	var out []key
	for len(b) > 0 {
		c := b[0]
		switch {
		case c == 27 && len(b) > 2 && (b[1] == '[' || b[1] == 'O'):
			end := 2
			for end < len(b) && (b[end] < 0x40 || b[end] > 0x7e) {
				end++
			}
			if end == len(b) {
				return out // cut off
			}
			if k, ok := finals[b[end]]; ok {
				out = append(out, k)
			} else if k, ok := tildes[string(b[2:end])]; ok && b[end] == '~' {
				out = append(out, k)
			}
			b = b[end+1:]
		case c == 8:
			out, b = append(out, keyBackspace), b[1:]
		case c == '\n':
			out, b = append(out, keyEnter), b[1:]
		case c < utf8.RuneSelf:
			out, b = append(out, key(c)), b[1:]
		default:
			r, n := utf8.DecodeRune(b)
			if r != utf8.RuneError {
				out = append(out, key(r))
			}
			b = b[n:]
		}
	}
	return out
}
