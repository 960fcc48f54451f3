package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"

	"weft/controller/endpoint"
	"weft/controller/flowstore"
)

// JSONLines writes flows as lines of JSON, each as `weft flows -o json` shows it, to
// one of File, Stdout, Unix, and URL.
type JSONLines struct {
	// File is written to. When it is larger than Size bytes (100 MiB unless given) it
	// becomes FILE.1, and Keep (5 unless given) of those are kept.
	File string `yaml:"file,omitempty"`
	Size int64  `yaml:"size,omitempty"`
	Keep int    `yaml:"keep,omitempty"`
	// Stdout is the controller's own.
	Stdout bool `yaml:"stdout,omitempty"`
	// Unix is a stream socket.
	Unix string `yaml:"unix,omitempty"`
	// Endpoint is posted to, in gzip.
	endpoint.Endpoint `yaml:",inline"`
}

func (j *JSONLines) check() error {
	posts := j.Endpoint != endpoint.Endpoint{}
	n := 0
	for _, given := range []bool{j.File != "", j.Stdout, j.Unix != "", posts} {
		if given {
			n++
		}
	}
	var errs []error
	if n != 1 {
		errs = append(errs, fmt.Errorf("give one of file, stdout, unix, url; here are %d", n))
	}
	for field, path := range map[string]string{"file": j.File, "unix": j.Unix} {
		if path != "" && !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("%s: %q is no absolute path", field, path))
		}
	}
	if (j.Size != 0 || j.Keep != 0) && j.File == "" {
		errs = append(errs, errors.New("size, keep: they are of a file"))
	}
	if j.Size != 0 && j.Size < minFile {
		errs = append(errs, fmt.Errorf("size: %d bytes are too few; %d at least", j.Size, minFile))
	}
	if j.Keep < 0 || j.Keep > maxFiles {
		errs = append(errs, fmt.Errorf("keep: want 1 to %d", maxFiles))
	}
	if posts {
		errs = append(errs, j.Endpoint.Check())
	}
	return errors.Join(errs...)
}

func (j *JSONLines) sender(deps Deps) (sender, error) {
	switch {
	case j.File != "":
		return &lines{write: newRotating(j.File, j.Size, j.Keep)}, nil
	case j.Stdout:
		return &lines{write: stream{open: func(context.Context) (io.Writer, error) { return deps.Stdout, nil }}}, nil
	case j.Unix != "":
		return &lines{write: &socket{path: j.Unix}}, nil
	}
	p, err := newPoster(&j.Endpoint)
	return &postedLines{poster: p}, err
}

// writer takes whole lines, all or none of them unless it is a stream.
type writer interface {
	write(ctx context.Context, b []byte) error
	close()
}

// lines is flows as lines.
type lines struct {
	write writer
	buf   bytes.Buffer
}

func (l *lines) send(ctx context.Context, flows []flowstore.Flow) (int, error) {
	if err := encodeLines(&l.buf, flows); err != nil {
		return 0, err
	}
	if err := l.write.write(ctx, l.buf.Bytes()); err != nil {
		return 0, err
	}
	return len(flows), nil
}

func (l *lines) close() { l.write.close() }

func encodeLines(buf *bytes.Buffer, flows []flowstore.Flow) error {
	buf.Reset()
	enc := json.NewEncoder(buf)
	for i := range flows {
		if err := enc.Encode(&flows[i]); err != nil {
			return fmt.Errorf("encode flow %d: %w", flows[i].ID, err)
		}
	}
	return nil
}

// stream is what is there already.
type stream struct {
	open func(context.Context) (io.Writer, error)
}

func (s stream) write(ctx context.Context, b []byte) error {
	w, err := s.open(ctx)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func (s stream) close() {}

// socket is a Unix socket, which is dialled again after a failure.
type socket struct {
	path string
	conn net.Conn
}

func (s *socket) write(ctx context.Context, b []byte) error {
	if s.conn == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", s.path)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	stop := until(ctx, s.conn)
	_, err := s.conn.Write(b)
	if stop(); err != nil {
		s.close()
	}
	return err
}

func (s *socket) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// postedLines posts flows as application/x-ndjson.
type postedLines struct {
	*poster
	buf     bytes.Buffer
	refused uint64
}

func (p *postedLines) refusals() uint64 { return p.refused }

func (p *postedLines) send(ctx context.Context, flows []flowstore.Flow) (int, error) {
	return halve(flows, func() { p.refused++ }, func(part []flowstore.Flow) error {
		if err := encodeLines(&p.buf, part); err != nil {
			return err
		}
		_, err := p.post(ctx, "application/x-ndjson", p.buf.Bytes())
		return err
	})
}
