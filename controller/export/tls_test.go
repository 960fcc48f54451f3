package export

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/internal/testreq"
)

// authority makes a certificate for 127.0.0.1 that signs itself, and its key.
func authority(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "receiver"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, about, about, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("receiver.pem", "CERTIFICATE", der), write("receiver.key", "PRIVATE KEY", secret)
}

// Lines go to a server whose certificate is of the authority that was named, and to
// no other.
func TestLinesOverTLS(t *testing.T) {
	certificate, key := authority(t)
	other, _ := authority(t)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []int
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil || r.TLS == nil {
			t.Errorf("%v, TLS %v", err, r.TLS)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, ports(t, z)...)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // who does not trust it says so there
	server.StartTLS()
	defer server.Close()
	w := newWorld(t)
	e, stop := w.run(fmt.Sprintf("exporters:\n- {name: a, jsonLines: {url: '%[1]s/flows', caFile: %[2]s}}\n- {name: stranger, jsonLines: {url: '%[1]s/flows', caFile: %[3]s}}\n", server.URL, certificate, other), Deps{})
	defer stop()
	w.add(1, 50, nil)
	await(t, "all flows", func() bool { return e.followers[0].state().Sent == 50 })
	await(t, "failures", func() bool { return e.followers[1].state().Failures > 1 })
	stop()
	if s := e.followers[1].state(); s.Sent != 0 {
		t.Errorf("%d flows went to a receiver nobody vouches for", s.Sent)
	}
	if !slices.Equal(got, upFrom(1, 50)) {
		t.Errorf("came %v", got)
	}
}

// OpenSSL's server takes IPFIX, and the bytes it hands on are whole messages.
func TestIPFIXOverTLS(t *testing.T) {
	testreq.Need(t, "openssl")
	certificate, key := authority(t)
	other, _ := authority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	var out lockedBuffer
	server := exec.Command("openssl", "s_server", "-accept", address, "-cert", certificate, "-key", key, "-tls1_3", "-quiet", "-naccept", "10")
	server.Stdout = &out
	stdin, err := server.StdinPipe() // it ends with what it reads
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { server.Process.Kill(); server.Wait() }() //nolint:errcheck // it was killed
	stranger := ipfixSender(t, "address: '"+address+"', transport: tcp, caFile: "+other)
	await(t, "the server", func() bool {
		_, err := stranger.send(t.Context(), mixed(1))
		if err == nil {
			t.Fatal("flows went to a receiver nobody vouches for")
		}
		return strings.Contains(err.Error(), "certificate")
	})
	s := ipfixSender(t, "address: '"+address+"', transport: tcp, caFile: "+certificate)
	if n, err := s.send(t.Context(), mixed(100)); n != 100 || err != nil {
		t.Fatal(n, err)
	}
	messages := make(chan []byte, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for at := 0; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			for b := out.from(at); len(b) >= 4; b = out.from(at) {
				n := int(b[2])<<8 | int(b[3])
				if n < messageHeader || n > len(b) {
					break // the rest has not come yet
				}
				messages <- b[:n]
				at += n
			}
		}
	}()
	gather(t, messages, 100)
}

// lockedBuffer is written to by a program and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) from(at int) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes()[at:])
}
