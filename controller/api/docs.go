package api

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"
)

// The page shows /openapi.json and fetches nothing else from anywhere.
var (
	//go:embed docs.html
	docsHTML string
	//go:embed docs.js
	docsJS string
	//go:embed docs.css
	docsCSS string

	docsBody, docsPolicy = buildDocs()
)

func buildDocs() (body, policy string) {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	body = strings.NewReplacer("/*CSS*/", docsCSS, "/*JS*/", docsJS).Replace(docsHTML)
	return body, "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src " + hash(docsJS) + "; style-src " + hash(docsCSS)
}

func docsPage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", docsPolicy)
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Write([]byte(docsBody)) //nolint:errcheck // the peer is gone
}
