package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Token is a secret that a person hands over: a join token to a machine, an
// access token to a person. As text it is "PREFIX.NAME~SECRET~PIN", where NAME
// is the resource's name, SECRET 32 random bytes and PIN the controller's
// authority (see CAPin), so that the very first connection is to nobody else.
type Token struct {
	Prefix string
	Name   string
	Secret string
	Pin    string
}

// The prefixes of tokens, which let secret scanners find them.
const (
	PrefixJoin   = "weft-join"
	PrefixAccess = "weft-access"
)

// NewToken draws a secret.
func NewToken(prefix, name, pin string) Token {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return Token{prefix, name, base64.RawURLEncoding.EncodeToString(b[:]), pin}
}

func (t Token) String() string {
	return t.Prefix + "." + t.Name + "~" + t.Secret + "~" + t.Pin
}

// ParseToken reads what String writes. The error never repeats the secret.
func ParseToken(prefix, text string) (Token, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), prefix+".")
	if !ok {
		return Token{}, fmt.Errorf("token does not begin with %q; is it of another kind, or cut off?", prefix+".")
	}
	parts := strings.Split(rest, "~")
	if len(parts) != 3 || parts[0] == "" {
		return Token{}, errors.New("token is damaged: want three parts separated by '~'")
	}
	if raw, err := base64.RawURLEncoding.DecodeString(parts[1]); err != nil || len(raw) != 32 {
		return Token{}, errors.New("token is damaged: its secret has the wrong length")
	}
	if raw, err := hex.DecodeString(parts[2]); err != nil || len(raw) != sha256.Size {
		return Token{}, errors.New("token is damaged: its pin is not a SHA-256")
	}
	return Token{prefix, parts[0], parts[1], parts[2]}, nil
}

// Hash is what the controller stores in place of the secret: SHA-256, in hex.
// A secret of 256 random bits needs no slow hash.
func (t Token) Hash() string {
	sum := sha256.Sum256([]byte(t.Secret))
	return hex.EncodeToString(sum[:])
}

// HashEqual compares with a stored Hash in constant time.
func (t Token) HashEqual(stored string) bool {
	return subtle.ConstantTimeCompare([]byte(t.Hash()), []byte(stored)) == 1
}

// CAPin names an authority: the SHA-256 of its SubjectPublicKeyInfo, in hex.
func CAPin(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
