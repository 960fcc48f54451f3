package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	rand2 "math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"weft/internal/keyfile"
	"weft/wire"
)

const receivedHeader = "Received"

// newKey makes a private key and the request that proves it is ours.
func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	csr, err := request(key)
	return key, csr, err
}

func request(key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// joinKey is the key to join with: kept until the join has succeeded, because
// the controller knows by it a machine that asks again after its answer was
// lost, and does not count the token's use twice.
func (i *Identity) joinKey() (crypto.Signer, []byte, error) {
	path := i.joinKeyPath()
	data, err := keyfile.ReadSecret(path)
	if err == nil {
		if block, _ := pem.Decode(data); block != nil {
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if signer, ok := key.(crypto.Signer); ok {
					csr, err := request(signer)
					return signer, csr, err
				}
			}
		}
		i.log.Warn("pass over a damaged key of an unfinished join", "file", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	key, csr, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, err
	}
	return key, csr, keyfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600)
}

func (i *Identity) joinKeyPath() string { return filepath.Join(i.cfg.Dir, "identity", "joining.pem") }

// newState checks that certificate and authorities fit the key.
func newState(key crypto.Signer, der []byte, bundle []*x509.Certificate, received time.Time) (*state, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return nil, errors.New("certificate is for another key")
	}
	id, err := wire.CertificateIdentity(leaf)
	if err != nil {
		return nil, err
	}
	st := &state{
		id:       id,
		cert:     tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		received: received,
		early:    rand2.Float64() / 10,
		bundle:   bundle,
		roots:    poolOf(bundle),
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: st.roots, CurrentTime: middle(leaf), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("certificate is not of the controller's authority: %w", err)
	}
	return st, nil
}

// renewAt is when two thirds of the certificate's life here are over, or up to
// a tenth of it earlier, so that machines that joined together do not renew
// together.
func (st *state) renewAt() time.Time {
	life := st.cert.Leaf.NotAfter.Sub(st.received)
	return st.received.Add(time.Duration(float64(life) * (2.0/3 - st.early)))
}

func (st *state) encode() ([]byte, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(st.cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: secret}) // a bytes.Buffer takes all
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: st.cert.Leaf.Raw,
		Headers: map[string]string{receivedHeader: st.received.UTC().Format(time.RFC3339Nano)}})
	for _, ca := range st.bundle {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	}
	return b.Bytes(), nil
}

// parseState reads what encode writes.
func parseState(data []byte) (*state, error) {
	keyBlock, rest := pem.Decode(data)
	if keyBlock == nil || keyBlock.Type != "PRIVATE KEY" {
		return nil, errors.New("it does not begin with a private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key is a %T, which cannot sign", key)
	}
	leaf, rest := pem.Decode(rest)
	if leaf == nil || leaf.Type != "CERTIFICATE" {
		return nil, errors.New("it holds no certificate")
	}
	received, err := time.Parse(time.RFC3339Nano, leaf.Headers[receivedHeader])
	if err != nil {
		return nil, fmt.Errorf("time of receipt: %w", err)
	}
	bundle, err := parseBundle(rest)
	if err != nil {
		return nil, err
	}
	return newState(signer, leaf.Bytes, bundle, received)
}

// parseBundle reads authorities in PEM: at least one, and nothing else.
func parseBundle(data []byte) ([]*x509.Certificate, error) {
	var bundle []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("authorities hold a %s block", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("authority: %w", err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("authority %q is no certificate authority", cert.Subject)
		}
		bundle = append(bundle, cert)
	}
	if len(bundle) == 0 {
		return nil, errors.New("no certificate authority was given")
	}
	return bundle, nil
}

func poolOf(bundle []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range bundle {
		pool.AddCert(cert)
	}
	return pool
}

func sameBundle(a, b []*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

// middle is a time at which the certificate is valid, for checks of its
// signature alone.
func middle(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2)
}
