package application

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"slices"
	"strings"
)

// methods are those of RFC 9110, PATCH, and WebDAV's.
var methods = []string{"GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH"}

// readHTTP1 reads the first request's head, and the status of its answer.
func readHTTP1(r *Recogniser) verdict {
	if r.app.Method == "" {
		if v := readRequest(r); v != is {
			return v
		}
	}
	b := r.kept[Server]
	if len(b) == 0 {
		return is
	}
	if !begins(b, "HTTP/1.") {
		return whole
	}
	end := bytes.Index(b, []byte("\r\n"))
	if end < 0 {
		if r.full[Server] {
			return whole
		}
		return is
	}
	answer, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(append(b[:end:end], "\r\n\r\n"...))), nil)
	if err == nil {
		answer.Body.Close()
		r.app.Status, r.app.Latency = answer.StatusCode, max(r.answered.Sub(r.asked), 0)
	}
	return whole
}

// begins says whether b begins with a text, as far as it goes.
func begins(b []byte, text string) bool {
	n := min(len(b), len(text))
	return n > 0 && string(b[:n]) == text[:n]
}

func readRequest(r *Recogniser) verdict {
	b := r.kept[Client]
	if len(b) == 0 {
		return more
	}
	method, _, _ := bytes.Cut(b[:min(len(b), 12)], []byte{' '})
	if !slices.ContainsFunc(methods, func(m string) bool { return begins(b, m+" ") }) {
		return no
	}
	line := bytes.Index(b, []byte("\r\n"))
	if line < 0 && !r.full[Client] {
		return more
	}
	if line > 0 && !bytes.Contains(b[:line], []byte(" HTTP/1.")) {
		return no
	}
	var head []byte
	if end := bytes.Index(b, []byte("\r\n\r\n")); end >= 0 {
		head = b[:end+4]
	} else if last := bytes.LastIndex(b, []byte("\r\n")); last < 0 || !r.full[Client] && len(r.kept[Server]) == 0 {
		if last < 0 { // a request line that is longer than what is kept
			r.app.Protocol, r.app.Method = HTTP, string(method)
			return whole
		}
		return more
	} else {
		head = append(b[:last:last], "\r\n\r\n"...) // what is there of it
	}
	request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return no
	}
	r.app.Protocol, r.app.Method, r.app.Host = HTTP, shortened(request.Method), hostOf(request.Host)
	if request.Method != http.MethodConnect {
		r.app.Path = PathTemplate(request.URL.EscapedPath())
	}
	return is
}

// hostOf takes the port from an authority.
func hostOf(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		authority = host
	}
	return shortened(strings.ToLower(strings.Trim(authority, "[]")))
}
