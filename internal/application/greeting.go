package application

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// readSSH reads the version that either side says first (RFC 4253).
func readSSH(r *Recogniser) verdict {
	out := no
	for _, from := range []Side{Server, Client} {
		b := r.kept[from]
		switch {
		case len(b) == 0:
			out = max(out, more)
		case !begins(b, "SSH-2.0-") && !begins(b, "SSH-1.99-"):
			return no
		case len(b) < len("SSH-1.99-"):
			out = more
		default:
			r.app.Protocol = SSH
			out = is
			if line, _, ended := bytes.Cut(b, []byte("\n")); from == Server && (ended || len(b) > 255) {
				software, _, _ := strings.Cut(strings.SplitN(strings.TrimSpace(string(line[:min(len(line), 255)])), "-", 3)[2], " ")
				r.app.Software = shortened(software)
				return whole
			}
		}
		if out == is {
			return is
		}
	}
	return out
}

// The first words of PostgreSQL: what a client may ask before it says who it is,
// and version 3.
const (
	postgresCancel = 80877102
	postgresSSL    = 80877103
	postgresGSS    = 80877104
	postgres3      = 3
)

func readPostgreSQL(r *Recogniser) verdict {
	b := r.kept[Client]
	if len(b) == 0 {
		return more
	}
	if b[0] != 0 || len(b) > 1 && b[1] != 0 {
		return no // 64 KiB are more than anybody is called
	}
	if len(b) < 8 {
		return more
	}
	n, code := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	switch {
	case code == postgresCancel && (n == 16 || n > 16 && n <= 268), (code == postgresSSL || code == postgresGSS) && n == 8:
	case code>>16 == postgres3 && code&0xffff <= 2 && n > 8:
		const user = "user\x00"
		if len(b) < 8+len(user) {
			return more
		}
		if !bytes.Contains(b[8:], []byte(user)) && len(b) >= int(n) {
			return no
		}
	default:
		return no
	}
	r.app.Protocol = PostgreSQL
	return whole
}

// readMySQL reads the server's greeting, which comes first.
func readMySQL(r *Recogniser) verdict {
	b := r.kept[Server]
	if len(b) == 0 {
		if len(r.kept[Client]) > 0 {
			return no
		}
		return more
	}
	if len(b) < 6 {
		return more
	}
	n := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	if n < 20 || n > 512 || b[3] != 0 || b[4] != 10 {
		return no
	}
	version, _, ended := bytes.Cut(b[5:], []byte{0})
	if !ended {
		if len(b) >= 5+64 {
			return no
		}
		return more
	}
	if len(version) == 0 || version[0] < '0' || version[0] > '9' {
		return no
	}
	r.app.Protocol, r.app.Software = MySQL, shortened(string(version))
	return whole
}

// readRedis reads a command as an array of strings (RESP).
func readRedis(r *Recogniser) verdict {
	b := r.kept[Client]
	if len(b) == 0 {
		return more
	}
	rest, v := resp(b, '*', 1024)
	if v == is {
		if rest, v = resp(rest, '$', 32); v == is {
			v = more
			if len(rest) > 0 {
				if c := rest[0] | 0x20; c < 'a' || c > 'z' {
					return no
				}
				r.app.Protocol = Redis
				return whole
			}
		}
	}
	return v
}

// resp passes a sign and a number of 1 to most.
func resp(b []byte, sign byte, most int) (rest []byte, v verdict) {
	if len(b) == 0 {
		return nil, more
	}
	if b[0] != sign {
		return nil, no
	}
	n := 0
	for i, c := range b[1:] {
		switch {
		case c >= '0' && c <= '9' && n <= most:
			n = 10*n + int(c-'0')
		case c == '\r' && n > 0 && n <= most:
			if len(b) < i+3 {
				return nil, more
			}
			return b[i+3:], is
		default:
			return nil, no
		}
	}
	return nil, more
}

// Kafka's requests: no known number or version is above these.
const (
	maxKafkaKey     = 100
	maxKafkaVersion = 20
)

// readKafka reads a request's head, and that the answer is to it: the client's
// bytes alone could be anything.
func readKafka(r *Recogniser) verdict {
	b, answer := r.kept[Client], r.kept[Server]
	if len(b) == 0 && len(answer) > 0 {
		return no
	}
	if len(b) > 0 && b[0] != 0 {
		return no
	}
	if len(b) < 14 {
		return more
	}
	n, key, version, id := binary.BigEndian.Uint32(b), binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:]), int16(binary.BigEndian.Uint16(b[12:]))
	if n < 10 || n > 1<<24 || key > maxKafkaKey || version > maxKafkaVersion || id < -1 || id > 255 || int(id)+10 > int(n) {
		return no
	}
	if text := b[14:min(len(b), 14+int(max(id, 0)))]; len(text) > 0 && shortened(string(text)) == "" {
		return no
	}
	if len(answer) < 8 {
		return more
	}
	if n := binary.BigEndian.Uint32(answer); n < 4 || n > 1<<30 || !bytes.Equal(answer[4:8], b[8:12]) {
		return no
	}
	r.app.Protocol = Kafka
	return whole
}
