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
)

// checkWords refuses what libpcap would look up in the DNS: any word that is no
// keyword, number, address, or the name of a port or protocol after its keyword.
func checkWords(expr string) error {
	if i := strings.IndexFunc(expr, func(r rune) bool { return r == 0 || r > 126 || r < 32 && r != '\t' && r != '\n' && r != '\r' }); i >= 0 {
		return fmt.Errorf("holds the character %q; use plain ASCII", []rune(expr[i:])[0])
	}
	text := withoutOffsets(expr)
	qualifier := "" // of the primitive; "port ftp or ssh" means "port ftp or port ssh"
	for _, at := range wordRE.FindAllStringIndex(text, -1) {
		word := text[at[0]:at[1]]
		escaped := at[0] > 0 && text[at[0]-1] == '\\' // "ip proto \tcp"
		switch {
		case escaped, strings.Trim(word, "-:.") == "": // arithmetic
		case keywords[word]:
			if word != "and" && word != "or" && word != "not" {
				qualifier = word
			}
		case named[qualifier], numberRE.MatchString(word), macRE.MatchString(word), partRE.MatchString(word), flagRE.MatchString(word), isAddress(word):
		default:
			return fmt.Errorf("holds %q, which is no word of pcap-filter(7) and no address; names of hosts are not looked up, write their addresses", word)
		}
	}
	return nil
}

// named are the qualifiers whose names come from files on this machine
// (/etc/services, /etc/protocols) or from libpcap itself, never from the DNS.
var named = map[string]bool{"port": true, "portrange": true, "proto": true, "protochain": true, "type": true, "subtype": true, "dir": true}

// withoutOffsets blanks each ':' inside brackets, where it is between an offset
// and a size ("tcp[12:4]") and never part of an address.
func withoutOffsets(expr string) string {
	b := []byte(expr)
	depth := 0
	for i, c := range b {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == ':' && depth > 0:
			b[i] = ' '
		}
	}
	return string(b)
}

func isAddress(word string) bool {
	if _, err := netip.ParseAddr(word); err == nil {
		return true
	}
	_, err := netip.ParsePrefix(word)
	return err == nil
}
