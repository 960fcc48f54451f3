package application

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// readHTTP2 reads the first request of a connection that begins with HTTP/2's
// preface, and the status of the first answer.
func readHTTP2(r *Recogniser) verdict {
	b := r.kept[Client]
	if len(b) == 0 {
		return more
	}
	if !begins(b, http2.ClientPreface) {
		return no
	}
	if len(b) < len(http2.ClientPreface) {
		return more
	}
	if r.app.Method == "" {
		r.app.Protocol = HTTP2
		request, v := readHeaders(b[len(http2.ClientPreface):], r.full[Client])
		if v != whole || request == nil {
			return v
		}
		path, _, _ := strings.Cut(request.PseudoValue("path"), "?")
		r.app.Method, r.app.Host, r.app.Path = shortened(request.PseudoValue("method")), hostOf(request.PseudoValue("authority")), PathTemplate(path)
		for _, f := range request.RegularFields() {
			if f.Name == "content-type" && strings.HasPrefix(f.Value, "application/grpc") {
				r.app.Protocol = GRPC
			}
		}
	}
	answer, v := readHeaders(r.kept[Server], r.full[Server])
	if v == whole && answer != nil {
		if status, err := strconv.ParseUint(answer.PseudoValue("status"), 10, 10); err == nil {
			r.app.Status = int(status)
		}
		r.app.Latency = max(r.answered.Sub(r.asked), 0)
	}
	return v
}

// readHeaders finds the first header frame, with what continues it. Nil and whole:
// there will be none.
func readHeaders(frames []byte, full bool) (*http2.MetaHeadersFrame, verdict) {
	f := http2.NewFramer(io.Discard, bytes.NewReader(frames))
	f.SetMaxReadFrameSize(maxKept)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.MaxHeaderListSize = maxKept
	for {
		frame, err := f.ReadFrame()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if full {
				return nil, whole
			}
			return nil, is
		}
		if err != nil {
			return nil, whole
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			return h, whole
		}
	}
}
