package nft

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TableName is the name of the table, of the family inet.
const TableName = "weft"

// chunk is how many elements go into one message: it must fit 64 KiB.
const chunk = 400

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// dial opens nftables in the namespace, with room for a large transaction. The
// caller closes it: a socket for each question would cost a thread each.
func (n *namespace) dial() (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(n.file.Fd())), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var set error
		if err := raw.Control(func(fd uintptr) {
			set = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 256<<20),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
		}); err != nil {
			return err
		}
		return set
	}))
}

// transaction is one change of a namespace's table, all or nothing.
type transaction struct {
	conn *nftables.Conn
	errs []error
}

func (t *transaction) elements(set string, list []nftables.SetElement, do func(*nftables.Set, []nftables.SetElement) error) {
	s := setNamed(set)
	for part := range slices.Chunk(list, chunk) {
		t.errs = append(t.errs, do(s, part))
	}
}

// begin makes table, base chains and sets, in the place of what another run of
// the program has left. Rules and elements come with them or not at all.
func (t *transaction) begin() error {
	tb := t.conn.AddTable(table())
	if err := t.clear(false); err != nil {
		return err
	}
	for _, s := range sets() {
		t.errs = append(t.errs, t.conn.AddSet(s, nil))
	}
	policy := nftables.ChainPolicyAccept
	for name, hook := range map[string]*nftables.ChainHook{chainOutput: nftables.ChainHookOutput, chainInput: nftables.ChainHookInput} {
		t.conn.AddChain(&nftables.Chain{Table: tb, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	}
	return nil
}

// clear takes away all that the table holds, but for the notes and, unless it is
// all, the base chains: they stay in their hooks without an instant between.
func (t *transaction) clear(all bool) error {
	tb := table()
	chains, err := t.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("list chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != TableName })
	old, err := setsIn(t.conn)
	if err != nil {
		return err
	}
	for _, c := range chains {
		t.conn.FlushChain(&nftables.Chain{Table: tb, Name: c.Name})
	}
	for _, name := range old {
		if name != setNamespaces {
			t.conn.DelSet(&nftables.Set{Table: tb, Name: name})
		}
	}
	for _, c := range chains {
		if all || c.Hooknum == nil {
			t.conn.DelChain(&nftables.Chain{Table: tb, Name: c.Name})
		}
	}
	return nil
}

// setsIn names the sets of our table, none where there is no table.
func setsIn(c *nftables.Conn) ([]string, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName }) {
		return nil, nil
	}
	list, err := c.GetSets(table())
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	var out []string
	for _, s := range list {
		out = append(out, s.Name)
	}
	return out, nil
}

// rules puts the program of a shape in the place of what the chains hold.
func (t *transaction) rules(s shape) {
	tb := table()
	p := s.program()
	names := slices.Sorted(maps.Keys(p))
	for _, name := range names {
		c := &nftables.Chain{Table: tb, Name: name}
		if name != chainInput && name != chainOutput {
			t.conn.AddChain(c) // does nothing where there is one
		}
		t.conn.FlushChain(c)
	}
	for _, name := range names {
		for _, exprs := range p[name] {
			t.conn.AddRule(&nftables.Rule{Table: tb, Chain: &nftables.Chain{Table: tb, Name: name}, Exprs: exprs})
		}
	}
}

// content adds and deletes elements so that the sets hold what they should.
func (t *transaction) content(old, now content) {
	for _, set := range contentSets {
		var add, del []nftables.SetElement
		for k, v := range now[set] {
			if o, ok := old[set][k]; !ok || o != v {
				add = append(add, element(set, k, v)...)
			}
		}
		for k, v := range old[set] {
			if n, ok := now[set][k]; !ok || n != v {
				del = append(del, element(set, k, v)...)
			}
		}
		sortElements(add)
		sortElements(del)
		t.elements(set, del, t.conn.SetDeleteElements)
		t.elements(set, add, t.conn.SetAddElements)
	}
}

func element(set, key string, v value) []nftables.SetElement {
	e := []nftables.SetElement{{Key: []byte(key), Val: []byte(be32(v.data))}}
	if isRange(set) {
		e = append(e, nftables.SetElement{Key: []byte(v.end), IntervalEnd: true})
	}
	return e
}

// sortElements puts elements in the order of their keys, the end of a range
// before the beginning of the next.
func sortElements(list []nftables.SetElement) {
	slices.SortFunc(list, func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	})
}

// outcomes adds and deletes the elements of the maps of verdicts, and the chains
// that log. name tells what a rule is called.
func (t *transaction) outcomes(old, now map[uint32]outcome, oldLogs map[string]bool, logText func(outcome) string) map[string]bool {
	tb := table()
	logs := map[string]bool{}
	for _, n := range slices.Sorted(maps.Keys(now)) {
		o := now[n]
		if o.Logged == 0 {
			continue
		}
		for _, kind := range []int{isNew, isAlone} {
			name := o.target(kind)
			if logs[name] {
				continue
			}
			logs[name] = true
			if oldLogs[name] {
				continue
			}
			c := t.conn.AddChain(&nftables.Chain{Table: tb, Name: name})
			t.conn.AddRule(&nftables.Rule{Table: tb, Chain: c, Exprs: logging(logText(o))})
			plain := o
			plain.Logged = 0
			end := accept()
			if next := plain.target(kind); next != "" {
				end = jump(next)
			}
			t.conn.AddRule(&nftables.Rule{Table: tb, Chain: c, Exprs: end})
		}
	}
	for kind, set := range verdictMaps {
		var add, del []nftables.SetElement
		for n, o := range now {
			if _, ok := old[n]; !ok {
				v := &expr.Verdict{Kind: expr.VerdictAccept}
				if chain := o.target(kind); chain != "" {
					v = &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}
				}
				add = append(add, nftables.SetElement{Key: []byte(be32(n)), VerdictData: v})
			}
		}
		for n := range old {
			if _, ok := now[n]; !ok {
				del = append(del, nftables.SetElement{Key: []byte(be32(n))})
			}
		}
		t.elements(set, del, t.conn.SetDeleteElements)
		t.elements(set, add, t.conn.SetAddElements)
	}
	return logs
}

// dropLogs deletes chains that nothing leads to any more.
func (t *transaction) dropLogs(old, now map[string]bool) {
	for name := range old {
		if !now[name] {
			c := &nftables.Chain{Table: table(), Name: name}
			t.conn.FlushChain(c)
			t.conn.DelChain(c)
		}
	}
}

func (t *transaction) commit() error {
	if err := errors.Join(t.errs...); err != nil {
		return err
	}
	return t.conn.Flush()
}
