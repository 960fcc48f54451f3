package observe

import (
	"bytes"
	"testing"

	"weft/wire/wirepb"
)

// A plan depends on the keys by which hosts tell who calls; one that can be none
// is left out.
func TestCallerKeys(t *testing.T) {
	o, _, _ := fleet(t, Config{})
	changed, key := o.InventoryChanged(), bytes.Repeat([]byte{7}, 32)
	o.Facts(id("web"), &wirepb.HostFacts{CallerKey: key})
	select {
	case <-changed:
	default:
		t.Error("nobody is told of a new key")
	}
	o.Facts(id("ids"), &wirepb.HostFacts{CallerKey: key[:31]})
	if got := o.CallerKeys(); len(got) != 1 || !bytes.Equal(got["web"], key) {
		t.Errorf("%v", got)
	}
}
