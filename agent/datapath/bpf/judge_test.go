package bpf

import (
	"encoding/binary"
	"strings"
	"testing"
	"unsafe"

	"weft/model"
	"weft/policy"
	"weft/policy/classify"
	"weft/policy/policytest"
)

// open makes a driver with pins of the test's own, attached nowhere.
func open(t testing.TB) *Driver {
	t.Helper()
	pins := mountBPF(t)
	root := "/sys/fs/cgroup"
	if _, err := findCgroup(root); err != nil {
		root = "/sys/fs/cgroup/unified"
	}
	d, err := Open(Config{CgroupRoot: root, PinDir: pins}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
	})
	d.attached = true
	d.store = newStore(&d.tableMaps, &d.numbers, resolveTest)
	return d
}

// The programs' own verdicts equal the reference, for random worlds and packets.
func TestKernelEqualsReference(t *testing.T) {
	d := open(t)
	worlds, packets := 2400, 350 // a million verdicts, for not every end is a subject
	if testing.Short() {
		worlds = 30
	}
	compared := 0
	for seed := range uint64(worlds) {
		compared += compareKernel(t, d, seed, packets)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d verdicts compared", compared)
}

// processes of policytest's worlds, as the programs see them.
var (
	testExes    = map[string]uint32{"/bin/x": 1, "/bin/y": 2}
	testUsers   = map[string]uint32{"root": 0, "www": 33}
	testCgroups = map[string]cgroup{"/a": {11, 1}, "/a/b": {12, 2}, "/ab": {13, 1}}
)

func resolveTest(p model.PolicyProcess) (policyCondition, error) {
	var c policyCondition
	if p.Exe != "" {
		c.Flags, c.Exe = c.Flags|condExe, testExes[p.Exe]
	}
	if p.User != "" {
		c.Flags, c.Uid = c.Flags|condUser, testUsers[p.User]
	}
	if p.Cgroup != "" {
		x := testCgroups[p.Cgroup]
		c.Flags, c.Level, c.Cgroup = c.Flags|condCgroup, uint32(x.level), x.id
	}
	return c, nil
}

func compareKernel(t *testing.T, d *Driver, seed uint64, packets int) (compared int) {
	t.Helper()
	g := policytest.New(seed)
	w := g.World()
	set, err := policy.Compile(w)
	if err != nil {
		t.Fatal(err)
	}
	d.store.begin(nil)
	tables := map[*policy.Ruleset][2]uint32{}
	for _, r := range set.Rulesets() {
		var numbers [2]uint32
		for dir, table := range []*policy.Table{&r.Ingress, &r.Egress} {
			if numbers[dir], err = d.store.table(classify.Build(table, w.Identities.Members)); err != nil {
				t.Fatal(err)
			}
		}
		tables[r] = numbers
	}
	if err := d.store.write(); err != nil {
		t.Fatal(err)
	}
	for range packets {
		p := g.Packet(w.Identities.All())
		for _, dir := range []policy.Direction{policy.Ingress, policy.Egress} {
			subject, peer := p.Ends(dir)
			if set.For(subject.Identity) == nil {
				continue
			}
			peer.Names, peer.Process.Cgroup = nil, "" // what the programs know of no peer
			var q policyFrame
			q.Query.Table = tables[set.For(subject.Identity)][dir]
			fillQuery(&q, &p, subject, peer)
			got := askKernel(t, d, &q)
			v := w.Evaluate(dir, &p)
			if action(uint8(got.Action)) != v.Action || policy.RuleID(got.Rule) != v.ID || policy.RuleID(got.Logged) != v.Logged || got.Stateless == 0 != v.Stateful {
				t.Errorf("seed %d %s %+v:\nkernel    %+v\nreference %+v\n%s", seed, dir, p, got, v, set.For(subject.Identity))
				return compared
			}
			compared++
		}
	}
	if err := d.store.retire(); err != nil {
		t.Fatal(err)
	}
	return compared
}

func fillQuery(f *policyFrame, p *policy.Packet, subject, peer *policy.End) {
	q := &f.Query
	q.Identity = uint32(peer.Identity)
	q.Entities = uint32(peer.Entities&policy.Special) >> entityShift
	q.Family, q.Peer = addressBytes(peer.Addr)
	q.Protocol = p.Protocol
	q.Port = port(p.Key())
	q.Exe, q.Uid, q.Known = process(&subject.Process)
	q.PeerExe, q.PeerUid, q.PeerKnown = process(&peer.Process)
	for dir, c := range testCgroups {
		if subject.Process.Cgroup == dir || strings.HasPrefix(subject.Process.Cgroup, dir+"/") {
			q.Ancestors[c.level] = c.id
		}
	}
}

func process(p *model.PolicyProcess) (exe, uid, known uint32) {
	uid, ok := testUsers[p.User]
	if !ok {
		uid = ^uint32(0)
	}
	return testExes[p.Exe], uid, 1
}

var frame [14 + unsafe.Sizeof(policyFrame{}.Query)]byte

func askKernel(t *testing.T, d *Driver, q *policyFrame) (v policyVerdict) {
	t.Helper()
	binary.BigEndian.PutUint16(frame[12:], 0x88b5) // an EtherType for experiments, IEEE 802
	copy(frame[14:], unsafe.Slice((*byte)(unsafe.Pointer(&q.Query)), unsafe.Sizeof(q.Query)))
	if n, _, err := d.objects.WeftJudge.Test(frame[:]); err != nil || n != 1 {
		t.Fatalf("run the program: %d, %v", n, err)
	}
	if err := d.objects.Verdicts.Lookup(uint32(0), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
