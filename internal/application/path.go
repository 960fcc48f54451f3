package application

import "strings"

// Limits of a template.
const (
	maxSegments = 8
	maxSegment  = 40
	maxPath     = 200
)

// PathTemplate is a path without what names somebody or something: segments that
// are numbers, UUIDs, digests, tokens, addresses, or are too long, become {id}; what
// is too deep is left out. The query is the caller's to leave out.
func PathTemplate(path string) string {
	path = strings.TrimPrefix(path, "/")
	segments := strings.SplitN(path, "/", maxSegments+1)
	deep := len(segments) > maxSegments
	if deep {
		segments = segments[:maxSegments]
	}
	for i, s := range segments {
		if names(s) {
			segments[i] = "{id}"
		}
	}
	out := "/" + strings.Join(segments, "/")
	if deep || len(out) > maxPath {
		out = out[:min(len(out), maxPath)] + "/..."
	}
	return out
}

// names says whether a segment is more of a name than of a place.
func names(s string) bool {
	digits, hex, letters, upper := 0, 0, 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'f':
			hex++
		case c >= 'g' && c <= 'z':
			letters++
		case c >= 'A' && c <= 'Z':
			upper++
		case c == '-' || c == '_' || c == '.' || c == '~':
		default: // escapes, @, =, :, ; and what is in them
			return true
		}
	}
	rest := hex + letters + upper
	switch {
	case len(s) > maxSegment:
		return true
	case digits > 0 && rest == 0: // 42, 2026-01-02, 10.0.0.1
		return true
	case digits > 0 && digits+hex >= 8 && letters+upper == 0: // a digest, a UUID
		return true
	case digits > 1 && len(s) >= 16 && !strings.Contains(s, "."): // a token, not a file with a version
		return true
	case digits >= 4 && digits*2 >= rest+digits: // order-20261, u12345
		return true
	}
	return false
}
