// Reading a packet's headers.
#pragma once

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

struct packet {
	__u8 source[16], destination[16];
	__be16 source_port, destination_port; // ICMP: the echo identifier, in both
	__u8 family, protocol;
	__u8 tcp_flags;
	__u8 icmp_type, icmp_code;
	__u8 no_ports; // a later fragment, or headers that do not reach the ports
	__u8 pad[2];
	__u32 length; // from the network header on
	__u32 transport; // where its header begins
	__u32 header;	 // that header's length, where it can be cut into several
	// What it is on a wire: a super-frame is cut there, and each piece has headers.
	__u32 packets, bytes;
};

#define EXTENSIONS 8

static __always_inline int read_transport(struct __sk_buff *skb, __u32 at, struct packet *p)
{
	p->transport = at;
	if (p->protocol == IPPROTO_TCP) {
		struct tcphdr tcp;
		if (bpf_skb_load_bytes_relative(skb, at, &tcp, sizeof(tcp), BPF_HDR_START_NET))
			return -1;
		p->source_port = tcp.source;
		p->destination_port = tcp.dest;
		p->tcp_flags = ((__u8 *)&tcp)[13];
		p->header = (((__u8 *)&tcp)[12] >> 4) * 4;
	} else if (p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP || p->protocol == IPPROTO_UDPLITE) {
		__be16 ports[2];
		if (bpf_skb_load_bytes_relative(skb, at, ports, sizeof(ports), BPF_HDR_START_NET))
			return -1;
		p->source_port = ports[0];
		p->destination_port = ports[1];
		p->header = 8;
	} else if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6) {
		__u8 icmp[8];
		if (bpf_skb_load_bytes_relative(skb, at, icmp, sizeof(icmp), BPF_HDR_START_NET))
			return -1;
		p->icmp_type = icmp[0];
		p->icmp_code = icmp[1];
		int echo = p->protocol == IPPROTO_ICMP ? icmp[0] == 8 || icmp[0] == 0 : icmp[0] == 128 || icmp[0] == 129;
		if (echo) {
			__builtin_memcpy(&p->source_port, icmp + 4, 2);
			p->destination_port = p->source_port;
		}
	}
	return 0;
}

// read_packet returns 0, or -1 where the headers do not parse.
static __always_inline int read_packet(struct __sk_buff *skb, struct packet *p)
{
	__builtin_memset(p, 0, sizeof(*p));
	p->length = skb->len;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;
		if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) || ip.ihl < 5)
			return -1;
		p->family = 4;
		p->protocol = ip.protocol;
		__builtin_memcpy(p->source, &ip.saddr, 4);
		__builtin_memcpy(p->destination, &ip.daddr, 4);
		if (ip.frag_off & bpf_htons(0x1fff)) {
			p->no_ports = 1;
			return 0;
		}
		return read_transport(skb, ip.ihl * 4, p);
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return -1;
	struct ipv6hdr ip6;
	if (bpf_skb_load_bytes_relative(skb, 0, &ip6, sizeof(ip6), BPF_HDR_START_NET))
		return -1;
	p->family = 6;
	__builtin_memcpy(p->source, &ip6.saddr, 16);
	__builtin_memcpy(p->destination, &ip6.daddr, 16);
	__u8 next = ip6.nexthdr;
	__u32 at = sizeof(ip6);
#pragma unroll
	for (int i = 0; i < EXTENSIONS; i++) {
		__u8 head[8];
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT && next != IPPROTO_AH) {
			p->protocol = next;
			return read_transport(skb, at, p);
		}
		if (bpf_skb_load_bytes_relative(skb, at, head, sizeof(head), BPF_HDR_START_NET))
			return -1;
		if (next == IPPROTO_FRAGMENT) {
			if ((head[2] << 8 | head[3]) & 0xfff8) {
				p->protocol = head[0];
				p->no_ports = 1;
				return 0;
			}
			at += 8;
		} else if (next == IPPROTO_AH) {
			at += (head[1] + 2) * 4;
		} else {
			at += (head[1] + 1) * 8;
		}
		next = head[0];
	}
	return -1; // a chain that does not end
}

// weigh says what a packet is on a wire. The kernel cuts what has a segment size
// at the latest there, or has put it together from what came.
static __always_inline void weigh(struct __sk_buff *skb, struct packet *p)
{
	__u32 size = skb->gso_size, headers = p->transport + p->header;
	p->packets = 1;
	p->bytes = p->length;
	if (!size || !p->header || p->length <= headers)
		return;
	p->packets = (p->length - headers + size - 1) / size;
	p->bytes += (p->packets - 1) * headers;
}

// policy_port is what rules' ports are matched against, in network order.
static __always_inline __be16 policy_port(const struct packet *p)
{
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6)
		return bpf_htons(p->icmp_type << 8 | p->icmp_code);
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP)
		return p->destination_port;
	return 0;
}

// is_icmp_error says whether a packet tells of trouble with another (RFC 1122,
// 3.2.2; RFC 4443, 2.1).
static __always_inline int is_icmp_error(const struct packet *p)
{
	if (p->protocol == IPPROTO_ICMPV6)
		return p->icmp_type < 128;
	return p->protocol == IPPROTO_ICMP && (p->icmp_type == 3 || p->icmp_type == 4 || p->icmp_type == 5 || p->icmp_type == 11 || p->icmp_type == 12);
}

// port_toward is what rules of a direction match a connection's ports against.
static __always_inline __be16 port_toward(const struct conn_key *k, const struct packet *p, __u32 direction)
{
	if (k->protocol == IPPROTO_TCP || k->protocol == IPPROTO_UDP || k->protocol == IPPROTO_SCTP)
		return direction == DIR_EGRESS ? k->remote_port : k->local_port;
	return policy_port(p);
}
