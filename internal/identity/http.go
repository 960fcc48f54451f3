package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"

	"weft/wire"
)

// HTTPClient is for every call to the controller after Join: HTTP/2 over TLS
// 1.3 with our certificate, to a server of role controller. A connection that
// no longer answers is given up after 20 s.
func (i *Identity) HTTPClient() *http.Client { return i.client }

func (i *Identity) newHTTPClient() *http.Client { return i.httpClient(i.controllerTLS()) }

func (i *Identity) controllerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		Time:                 i.Now,
		GetClientCertificate: i.getClientCertificate,
		InsecureSkipVerify:   true, // see VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			st := i.state.Load()
			if st == nil {
				return ErrNotJoined
			}
			return i.verifyController(cs.PeerCertificates, st.roots, false)
		},
	}
}

// expiredAtController asks the controller's TLS alone whether our certificate
// is over. In TLS 1.3 that answer comes after the client's handshake, where
// HTTP/2 loses it as often as not.
func (i *Identity) expiredAtController(ctx context.Context) bool {
	u, err := url.Parse(i.cfg.Controller)
	if err != nil { // New has checked it
		return false
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "443")
	}
	raw, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	if i.track != nil {
		raw = i.track(raw)
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return false
	}
	cfg := i.controllerTLS()
	cfg.NextProtos = []string{"h2"} // its server speaks first
	conn := tls.Client(raw, cfg)
	if err = conn.HandshakeContext(ctx); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return expiredByPeer(err)
}

// pinnedClient is for Join: it speaks to the authority that the token names
// and to nobody else, and shows no certificate.
func (i *Identity) pinnedClient(pin string) *http.Client {
	return i.httpClient(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		Time:               i.Now,
		InsecureSkipVerify: true, // see VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			roots := x509.NewCertPool()
			var seen []string
			for _, cert := range cs.PeerCertificates {
				if !cert.IsCA {
					continue
				}
				if wire.CAPin(cert) == pin {
					roots.AddCert(cert)
					return i.verifyController(cs.PeerCertificates, roots, true)
				}
				seen = append(seen, short(wire.CAPin(cert)))
			}
			if len(seen) == 0 {
				seen = []string{"none"}
			}
			return pinError(pin, seen)
		},
	})
}

func (i *Identity) httpClient(cfg *tls.Config) *http.Client {
	cfg.NextProtos = []string{"h2"}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 2}}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err == nil && i.track != nil {
				conn = i.track(conn)
			}
			return conn, err
		},
		TLSClientConfig:     cfg,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		Protocols:           protocols,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 10 * time.Second},
	}
	return &http.Client{Transport: &timeReader{base: transport, observe: i.clock.observe}}
}

// timeReader notes the Date of each response, which comes from a controller
// whose certificate has been verified.
type timeReader struct {
	base    *http.Transport
	observe func(time.Time)
}

func (t *timeReader) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.base.RoundTrip(req)
	if err == nil {
		if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
			t.observe(date)
		}
	}
	return res, err
}

// CloseIdleConnections lets http.Client reach the transport beneath.
func (t *timeReader) CloseIdleConnections() { t.base.CloseIdleConnections() }

// sleep waits for d unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
