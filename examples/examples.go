// Package examples embeds the example files, so that the demo needs no checkout.
package examples

import _ "embed"

// The files of this folder that programs use.
var (
	//go:embed hybrid.yaml
	Hybrid []byte
	//go:embed groups.yaml
	Groups []byte
	//go:embed tap-web-to-ids.yaml
	TapWebToIDs []byte
)
