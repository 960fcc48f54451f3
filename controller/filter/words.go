package filter

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// keywords are the words of pcap-filter(7) that are no numbers and no names.
var keywords = func() map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(`
		host net port portrange proto protochain gateway mask type subtype dir direction
		src dst and or not less greater len length broadcast multicast inbound outbound
		ether link fddi tr wlan ppp slip ip ip6 arp rarp decnet iso atalk aarp lat moprc mopdl sca ipx netbeui stp
		tcp udp sctp icmp icmp6 igmp igrp pim vrrp carp ah esp esis isis clnp es-is is-is l1 l2 iih lsp snp csnp psnp
		vlan mpls pppoed pppoes geneve llc ifindex byte tcpflags icmptype icmpcode icmp6type icmp6code
		ra ta addr1 addr2 addr3 addr4 address1 address2 address3 address4
		i s u rr rnr rej ui ua disc sabme test xid frmr`) {
		set[w] = true
	}
	return set
}()

var (
	wordRE   = regexp.MustCompile(`[A-Za-z0-9_.:-]*[A-Za-z_.:][A-Za-z0-9_.:-]*(/[0-9A-Fa-f:.]+)?`)
	numberRE = regexp.MustCompile(`^(0[xX][0-9A-Fa-f]+|[0-9]+)$`)
	macRE    = regexp.MustCompile(`^([0-9A-Fa-f]{1,2}[:.-]){5}[0-9A-Fa-f]{1,2}$|^([0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}$`)
	partRE   = regexp.MustCompile(`^[0-9]+(\.[0-9]+){0,3}(/[0-9.]+)?$`) // "10.1" or "10.0.0.0/8" of "net"
	flagRE   = regexp.MustCompile(`^(tcp|icmp|icmp6)-[a-z0-9-]+$`)
	accessRE = regexp.MustCompile(`\[[^\]]*\]`)
)

// checkWords refuses what libpcap would look up in the DNS: any word that is no
// keyword, number, address, or the name of a port or protocol after its keyword.
func checkWords(expr string) error {
	if i := strings.IndexFunc(expr, func(r rune) bool { return r == 0 || r > 126 || r < 32 && r != '\t' && r != '\n' && r != '\r' }); i >= 0 {
		return fmt.Errorf("holds the character %q; use plain ASCII", []rune(expr[i:])[0])
	}
	last, end := "", 0
	// Inside brackets a ':' is an offset and a size, never an address.
	text := accessRE.ReplaceAllStringFunc(expr, func(s string) string { return strings.ReplaceAll(s, ":", " ") })
	for _, at := range wordRE.FindAllStringIndex(text, -1) {
		word := text[at[0]:at[1]]
		escaped := at[0] > 0 && text[at[0]-1] == '\\' // "ip proto \tcp"
		named := last == "port" || last == "portrange" || last == "proto" || last == "protochain" || last == "type" || last == "subtype" || last == "dir"
		if strings.TrimRight(text[end:at[0]], "( \t\r\n\\") != "" {
			named = false
		}
		switch {
		case keywords[word], escaped, named, numberRE.MatchString(word), macRE.MatchString(word), partRE.MatchString(word), flagRE.MatchString(word):
		case strings.Trim(word, "-:.") == "": // arithmetic
		case isAddress(word):
		default:
			return fmt.Errorf("holds %q, which is no word of pcap-filter(7) and no address; names of hosts are not looked up, write their addresses", word)
		}
		last, end = word, at[1]
	}
	return nil
}

func isAddress(word string) bool {
	if _, err := netip.ParseAddr(word); err == nil {
		return true
	}
	_, err := netip.ParsePrefix(word)
	return err == nil
}
