package nft

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Verify compares the rules in each namespace with those of the last Apply, by a
// digest of what the kernel lists, and puts them back where they are others.
// Elements of sets are not compared: to read them takes the kernel the square of
// their number.
func (d *Driver) Verify(bool) ([]string, error) {
	d.mu.Lock()
	var found []string
	var errs []error
	for _, n := range d.sorted() {
		if n.loaded == nil {
			continue
		}
		now, err := n.rulesDigest()
		if err != nil {
			errs = append(errs, fmt.Errorf("look at the rules in network namespace %s: %w", n.path, err))
			continue
		}
		if now != n.loaded.digest {
			found = append(found, "the rules in network namespace "+n.path+" were changed")
			n.loaded = nil
		}
	}
	state := d.state
	d.mu.Unlock()
	if len(found) > 0 && state != nil {
		errs = append(errs, d.Apply(context.Background(), state))
	}
	return found, errors.Join(errs...)
}

// Troubles are none that the kernel would tell: where its connection tracking is
// full it drops packets and logs that.
func (d *Driver) Troubles() (map[string]uint64, error) { return nil, nil }

// Numbers of linux/netfilter/nfnetlink.h and nf_tables.h.
const (
	subsysNFTables = 10
	msgGetRule     = 7
	attrRuleTable  = 1
	familyINet     = 1
	nfgenmsgLen    = 4
)

// rulesDigest is the digest of our table's rules as the kernel lists them.
func (n *namespace) rulesDigest() (sum [32]byte, err error) {
	conn, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return sum, err
	}
	defer conn.Close()
	attrs, err := mdnetlink.MarshalAttributes([]mdnetlink.Attribute{{Type: attrRuleTable, Data: append([]byte(TableName), 0)}})
	if err != nil {
		return sum, err
	}
	replies, err := conn.Execute(mdnetlink.Message{
		Header: mdnetlink.Header{Type: subsysNFTables<<8 | msgGetRule, Flags: mdnetlink.Request | mdnetlink.Dump},
		Data:   append([]byte{familyINet, 0, 0, 0}, attrs...),
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return sum, err
	}
	h := sha256.New()
	for _, m := range replies {
		if len(m.Data) > nfgenmsgLen { // which holds the number of the last change of anything
			h.Write(m.Data[nfgenmsgLen:])
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}
