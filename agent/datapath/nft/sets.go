package nft

import (
	"github.com/google/nftables"
)

// keyTypes are for those who list the table; the kernel takes keys as bytes.
var keyTypes = map[string]nftables.SetDatatype{
	setViews:   nftables.TypeMark,
	setCgroups: nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeCGroupV2),
	setLabels:  nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeMark, nftables.TypeMark),
	setPeers:   integer(20), // ranges over more than one register are numbers to nft
	setClasses: nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeMark),
	setPorts:   integer(12),
}

func integer(bytes uint32) nftables.SetDatatype {
	t := nftables.SetDatatype{Name: "integer", Bytes: bytes}
	t.SetNFTMagic(nftables.TypeInteger.GetNFTMagic())
	return t
}

// deniedType is what remember fills the registers with.
var deniedType = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeIP6Addr, nftables.TypeIP6Addr, nftables.TypeIP6Addr)

func sets() []*nftables.Set {
	var out []*nftables.Set
	for _, name := range contentSets {
		out = append(out, &nftables.Set{Table: table(), Name: name, IsMap: true, Interval: isRange(name), KeyType: keyTypes[name], DataType: nftables.TypeMark})
	}
	for _, name := range verdictMaps {
		out = append(out, &nftables.Set{Table: table(), Name: name, IsMap: true, Counter: true, KeyType: nftables.TypeMark, DataType: nftables.TypeVerdict})
	}
	for _, role := range roles {
		out = append(out, &nftables.Set{Table: table(), Name: deniedSet(role), Dynamic: true, HasTimeout: true, Timeout: rememberFor, Size: 4096, KeyType: deniedType})
	}
	return out
}

func setNamed(name string) *nftables.Set {
	for _, s := range sets() {
		if s.Name == name {
			return s
		}
	}
	return &nftables.Set{Table: table(), Name: name}
}
