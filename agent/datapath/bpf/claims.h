// What a guest may say of itself on the link: which addresses it may speak for.
#pragma once

static __always_inline int is_zero(const __u8 *a)
{
	const __u64 *x = (const void *)a;
	return !x[0] && !x[1];
}

static __always_inline int is_link_local(const __u8 *a, __u8 family)
{
	if (family == 4)
		return a[0] == 169 && a[1] == 254;
	return a[0] == 0xfe && (a[1] & 0xc0) == 0x80;
}

// at_home says whether a guest may speak for an address. Its own it may; another's
// it may not, whether that one is a workload here, elsewhere in the fleet, or this
// machine. What nobody is known to have it may, unless it is stated what it has.
static __noinline int at_home(const struct visit *v, const __u8 *address, __u32 family)
{
	struct home_key h __attribute__((aligned(8))) = {.slot = v->slot, .family = family};
	if (v->flags & PORT_FORWARDS)
		return 1;
	__builtin_memcpy(h.address, address, 16);
	if (is_zero(h.address) || bpf_map_lookup_elem(&homes, &h))
		return 1;
	h.slot = 0;
	if (bpf_map_lookup_elem(&homes, &h))
		return 0;
	if (v->flags & (family == 4 ? PORT_STATED4 : PORT_STATED6) && !is_link_local(h.address, family))
		return 0;
	__u32 slot = v->slot;
	struct slot *own = bpf_map_lookup_elem(&slots, &slot);
	if (!own)
		return 0;
	struct address_key a = {.prefixlen = family == 4 ? 40 + 32 : 40 + 128, .book = own->book, .family = family};
	__builtin_memcpy(a.address, h.address, 16);
	struct address *known = bpf_map_lookup_elem(&addresses, &a);
	if (!known)
		return 1;
	// Resolvers, the controller and relays may well be guests here.
	if (known->entities & (ENT_HOST | ENT_METADATA))
		return 0;
	return !known->identity || known->identity == own->identity || v->flags & PORT_AGENT;
}

// turned_away counts what a guest may not send. It returns 1 to let it pass.
static __always_inline int turned_away(const struct visit *v, __u64 trouble)
{
	if (!(v->flags & PORT_METERED))
		count_guest_trouble(trouble);
	return !!(v->flags & PORT_OBSERVED);
}
#define TURNED_AWAY(v, what) turned_away(v, __builtin_offsetof(struct guest_trouble, what))

// pull makes the headers contiguous; most frames' are.
static __always_inline void pull(struct __sk_buff *skb)
{
	__u32 n = skb->len;
	if (n > 256)
		n = 256;
	bpf_skb_pull_data(skb, n);
}

// claims says whether a guest may send this ARP message: for its own address, or
// asking whether anybody has one that it may take (RFC 826, RFC 5227).
static __noinline int claims(struct __sk_buff *skb, struct visit *v)
{
	struct {
		__be16 hardware, protocol;
		__u8 hardware_length, protocol_length;
		__be16 operation;
		__u8 sender_mac[6], sender[4], target_mac[6], target[4];
	} __attribute__((packed)) arp;
	__u8 address[16] __attribute__((aligned(8))) = {};
	if (bpf_skb_load_bytes_relative(skb, 0, &arp, sizeof(arp), BPF_HDR_START_NET)) {
		pull(skb);
		if (bpf_skb_load_bytes_relative(skb, 0, &arp, sizeof(arp), BPF_HDR_START_NET)) {
			TROUBLE(malformed);
			return 0;
		}
	}
	if (arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_length != 6 || arp.protocol_length != 4) {
		TROUBLE(malformed);
		return 0;
	}
	__builtin_memcpy(address, arp.sender, 4);
	if (is_zero(address))
		__builtin_memcpy(address, arp.target, 4);
	return at_home(v, address, 4) || TURNED_AWAY(v, borrowed);
}

#define NDP_FIRST 133 // router solicitation
#define NDP_ROUTER 134
#define NDP_SOLICITATION 135
#define NDP_ADVERTISEMENT 136
#define NDP_REDIRECT 137

// neighbour says what becomes of a message of neighbour discovery (RFC 4861): it
// passes, so that IPv6 has a link, but a guest speaks for its own address and is no
// router. One in a form that receivers must ignore, behind other headers or from
// beyond the link, could be taken for none of these here and for one of them there.
static __noinline int neighbour(struct __sk_buff *skb, struct visit *v)
{
	struct packet *p = &v->packet;
	__u8 hops = 0, target[16] __attribute__((aligned(8)));
	if (p->transport != sizeof(struct ipv6hdr) || bpf_skb_load_bytes_relative(skb, 7, &hops, 1, BPF_HDR_START_NET) || hops != 255) {
		TROUBLE(malformed);
		return 0;
	}
	if (!v->egress)
		return 1;
	__u32 type = p->icmp_type;
	if (type == NDP_ROUTER || type == NDP_REDIRECT) {
		return v->flags & PORT_FORWARDS || TURNED_AWAY(v, routers);
	}
	if (type == NDP_ADVERTISEMENT || (type == NDP_SOLICITATION && is_zero(p->source))) {
		if (bpf_skb_load_bytes_relative(skb, sizeof(struct ipv6hdr) + 8, target, sizeof(target), BPF_HDR_START_NET)) {
			TROUBLE(malformed);
			return 0;
		}
		return at_home(v, target, 6) || TURNED_AWAY(v, borrowed);
	}
	return 1;
}

// knows_groups says whether this is multicast listener discovery (RFC 3810), which a
// bridge that snoops needs before it passes neighbour discovery on.
static __always_inline int knows_groups(const struct packet *p)
{
	return p->protocol == IPPROTO_ICMPV6 && !p->no_ports && is_link_local(p->source, 6) &&
	       ((p->icmp_type >= 130 && p->icmp_type <= 132) || p->icmp_type == 143);
}
