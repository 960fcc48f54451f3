package nft

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
)

// setNamespaces, in the machine's own namespace, lists the others that hold our
// table: so that a program without memory finds them, and no other machine's.
const setNamespaces = "namespaces"

func namespacesSet() *nftables.Set {
	return &nftables.Set{Table: table(), Name: setNamespaces, KeyType: nftables.TypeIP6Addr}
}

func (id nsID) key() []byte {
	return []byte(be32(uint32(id.dev>>32), uint32(id.dev), uint32(id.ino>>32), uint32(id.ino)))
}

// note writes that a namespace will hold our table. The path goes into the
// comment, of which the kernel keeps 256 bytes.
func note(own, n *namespace) error {
	if len(n.path) > 200 {
		return fmt.Errorf("path of network namespace %s is longer than 200 bytes; bind it to a shorter one", n.path)
	}
	c, err := own.dial()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	c.AddTable(table())
	s := namespacesSet()
	if err := c.AddSet(s, nil); err != nil {
		return err
	}
	if err := c.SetAddElements(s, []nftables.SetElement{{Key: n.id.key(), Comment: n.path}}); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("note network namespace %s: %w", n.path, err)
	}
	return nil
}

// forget takes the note away again.
func forget(own *namespace, id nsID) error {
	c, err := own.dial()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	if err := c.SetDeleteElements(namespacesSet(), []nftables.SetElement{{Key: id.key()}}); err != nil {
		return err
	}
	if err := c.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("forget network namespace: %w", err)
	}
	return nil
}

// noted returns the namespaces that were noted and are still there; those that
// are not are forgotten.
func noted(own *namespace) ([]*namespace, error) {
	c, err := own.dial()
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	held, err := setsIn(c)
	if err != nil || !slices.Contains(held, setNamespaces) {
		return nil, err
	}
	list, err := c.GetSetElements(namespacesSet())
	if err != nil {
		return nil, fmt.Errorf("read noted network namespaces: %w", err)
	}
	var out []*namespace
	for _, e := range list {
		n, err := openNamespace(e.Comment)
		switch {
		case err != nil:
			return out, err
		case n != nil && string(n.id.key()) == string(e.Key):
			out = append(out, n)
			continue
		case n != nil:
			n.file.Close()
		}
		if err := c.SetDeleteElements(namespacesSet(), []nftables.SetElement{{Key: e.Key}}); err != nil {
			return out, err
		}
		if err := c.Flush(); err != nil {
			return out, fmt.Errorf("forget network namespace %s: %w", e.Comment, err)
		}
	}
	return out, nil
}

// remove takes our table out of a namespace.
func (n *namespace) remove() error {
	c, err := n.dial()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	c.DelTable(table())
	if err := c.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("remove table %s from network namespace %s: %w", TableName, n.path, err)
	}
	n.loaded = nil
	return nil
}
