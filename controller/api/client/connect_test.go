package client_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"weft/controller/api/apitest"
	"weft/controller/api/client"
	"weft/wire"
)

func serve(t *testing.T, role string) (*httptest.Server, *x509.Certificate) {
	t.Helper()
	ca, cert, err := apitest.Authority(role)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"version":"1.2.3","api":"weft/v1"}`))
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, ca
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func TestOnlyTheControllerIsBelieved(t *testing.T) {
	controller, ca := serve(t, "controller")
	host, hostCA := serve(t, "host")
	_, otherCA := serve(t, "controller")
	token := func(ca *x509.Certificate) string {
		return wire.NewToken(wire.PrefixAccess, "admin", wire.CAPin(ca)).String()
	}
	for name, c := range map[string]struct {
		cfg  client.Config
		want string // "" for success
	}{
		"by pin":             {client.Config{Server: controller.URL, Token: token(ca)}, ""},
		"by saved authority": {client.Config{Server: controller.URL, Token: token(otherCA), CA: pemOf(ca)}, ""},
		"another pin":        {client.Config{Server: controller.URL, Token: token(otherCA)}, "does not present the authority that the token names"},
		"another authority":  {client.Config{Server: controller.URL, Token: token(ca), CA: pemOf(otherCA)}, "not by the authority this context knows"},
		"a host":             {client.Config{Server: host.URL, Token: token(hostCA)}, "not a controller"},
		"a host, saved":      {client.Config{Server: host.URL, Token: token(hostCA), CA: pemOf(hostCA)}, "not a controller"},
	} {
		t.Run(name, func(t *testing.T) {
			cl, err := client.New(c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			v, err := cl.Version(t.Context())
			if c.want == "" && (err != nil || v.Version != "1.2.3") {
				t.Errorf("got %v, %v", v, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want ...%s...", err, c.want)
			}
		})
	}
}

func TestWhatIsNoServerIsRefusedBeforeATokenIsSent(t *testing.T) {
	for server, want := range map[string]string{
		"http://controller": "must not cross a network in clear text",
		"controller:443":    "want https://HOST",
		"":                  "want https://HOST",
		"unix://":           "want https://HOST",
		"https://":          "want https://HOST",
	} {
		if _, err := client.New(client.Config{Server: server}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want ...%s...", server, err, want)
		}
	}
}
