package nft

// numbers gives things numbers that are never given to another thing, so that a
// packet that reads half of its numbers before a transaction and half after it
// finds nothing, and is judged again.
type numbers struct {
	byKey map[string]uint32
	last  uint32
}

func newNumbers() *numbers { return &numbers{byKey: map[string]uint32{}} }

func (n *numbers) of(key string) uint32 {
	v, ok := n.byKey[key]
	if !ok {
		v = n.fresh()
		n.byKey[key] = v
	}
	return v
}

func (n *numbers) fresh() uint32 {
	n.last++
	return n.last
}

// keep forgets what is not used any more.
func (n *numbers) keep(used map[uint32]bool) {
	for k, v := range n.byKey {
		if !used[v] {
			delete(n.byKey, k)
		}
	}
}
