//go:build ignore

// Policy at guests' ports: the taps and veth ends at which virtual machines are
// plugged into this one. Nothing of a guest has a socket here, so every frame is
// judged where it passes: what comes in from the port is what the guest has sent.
// Attached by tcx, or by clsact filters before Linux 6.6; no kfunc, no CO-RE.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define NETWORK_HEADER ETH_HLEN

#include "told.h"
#include "packet.h"
#include "judge.h"
#include "table.h"
#include "conn.h"
#include "port.h"
#include "claims.h"

// What a program answers: on to the next one at this hook, or away with it. tcx
// and filters have the same numbers for both.
#define FRAME_NEXT -1
#define FRAME_DROP 2

// know_other finds out who the peer is. One whose frame came in by a guest's port
// is that guest, whatever the frame says.
static __noinline int know_other(struct __sk_buff *skb, const struct visit *v, const struct slot *own, struct conn *c)
{
	if (!own || !c)
		return 0;
	peer_by_address(&v->key, own, c);
	__u32 from = skb->ingress_ifindex;
	if (v->egress || !from)
		return 0;
	struct guest_port *port = bpf_map_lookup_elem(&guests, &from);
	if (!port || port->flags & (PORT_FORWARDS | PORT_AGENT))
		return 0;
	__u32 slot = port->slot;
	struct slot *peer = bpf_map_lookup_elem(&slots, &slot);
	if (!peer || !peer->identity) // one without is only metered
		return 0;
	c->peer_identity = peer->identity;
	c->peer_by = BY_PORT;
	c->peer_host = slot;
	if (slot == c->slot)
		c->peer_entities |= ENT_SELF;
	return 0;
}

// tell_guest asks user space to say to the sender that its frame was rejected.
static __always_inline void tell_guest(struct __sk_buff *skb, const struct visit *v)
{
	struct guest_event *e = bpf_ringbuf_reserve(&guest_events, sizeof(*e), 0);
	if (!e)
		return;
	e->port = skb->ifindex;
	e->from = skb->ingress_ifindex;
	e->length = v->packet.length;
	e->vlan = skb->vlan_present ? (skb->vlan_tci & 0xefff) | 0x1000 : 0;
	e->egress = v->egress;
	e->pad = 0;
	__builtin_memset(e->macs, 0, sizeof(e->macs));
	__builtin_memset(e->head, 0, sizeof(e->head));
	bpf_skb_load_bytes(skb, 0, e->macs, sizeof(e->macs));
	bpf_skb_load_bytes_relative(skb, 0, e->head, clamp(v->packet.length, EVENT_HEAD), BPF_HDR_START_NET);
	bpf_ringbuf_submit(e, 0);
}

// ask_about judges by one direction's rules.
static __always_inline int ask_about(struct frame *f, const struct visit *v, __u32 table, __u32 direction)
{
	if (!f)
		return 0;
	f->conn.direction = direction;
	f->conn.policy_port = port_toward(&v->key, &v->packet, direction);
	ask(f, &v->key, &f->conn, table);
	return f->conn.action == ACT_ALLOW;
}

static __always_inline int judge_first(struct frame *f, struct __sk_buff *skb, struct visit *v)
{
	__u32 zero = 0, slot = v->slot, now = v->egress ? DIR_EGRESS : DIR_INGRESS;
	struct packet *p = &v->packet;
	struct conn *c = &f->conn;
	struct control *in_force = bpf_map_lookup_elem(&control, &zero);
	if (!in_force)
		return 0;
	__builtin_memset(c, 0, sizeof(*c));
	__builtin_memset(f->query.ancestors, 0, sizeof(f->query.ancestors));
	c->revision = *(volatile __u32 *)&in_force->revision; // before anything that a new state replaces
	c->slot = slot;
	struct slot *own = bpf_map_lookup_elem(&slots, &slot);
	if (!own)
		return 0;
	if (p->no_ports)
		TROUBLE(fragments);
	c->identity = own->identity;
	c->first_ns = bpf_ktime_get_boot_ns();
	know_other(skb, v, own, c);
	int begins = p->protocol != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	if (begins) {
		ask_about(f, v, own->tables[now & 1], now);
	} else {
		// The middle of a connection that nobody has tracked. Who called cannot be
		// seen here: the lower port was called, or else the other. No call begins
		// by this: one needs a SYN, which is judged as itself whatever is tracked.
		__u32 called = bpf_ntohs(v->key.local_port) < bpf_ntohs(v->key.remote_port) ? DIR_INGRESS : DIR_EGRESS;
		c->flags |= CONN_MIDSTREAM;
		if (!ask_about(f, v, own->tables[called & 1], called) || (c->stateless && called != now)) {
			__u32 other = called ^ 1;
			if (!ask_about(f, v, own->tables[other & 1], other) || (c->stateless && other != now))
				ask_about(f, v, own->tables[now & 1], now); // which has said no
		}
	}
	if (c->action != ACT_ALLOW) {
		turned_down(&v->key, c, p, v->egress);
		if (c->action == ACT_REJECT)
			tell_guest(skb, v);
		return 0;
	}
	count_rule(c->rule, begins, 0, 0);
	if (c->stateless) {
		count_rule(c->rule, 0, p->packets, p->bytes);
		return 1;
	}
	if (is_hello(c, v->egress))
		hand_hello(skb, &v->key, c, p, v->egress);
	keep_line(&v->key, c, p, v->egress);
	return 1;
}

// first_frame judges a frame of no connection in the table. It returns 1 to let
// it pass.
static __noinline int first_frame(struct __sk_buff *skb, struct visit *v)
{
	struct frame *f = take_frame();
	if (!f) {
		TROUBLE(no_frame);
		return 0;
	}
	int pass = judge_first(f, skb, v);
	give_frame(f);
	return pass;
}

// afresh judges a connection whose state was another. It returns 0 where it cannot.
static __noinline int afresh(struct __sk_buff *skb, const struct conn_key *k, __u32 number, __u32 revision)
{
	struct conn *c = bpf_map_lookup_elem(&conns, k);
	struct slot *own = bpf_map_lookup_elem(&slots, &number);
	if (!c || !own)
		return 0;
	struct frame *f = take_frame();
	if (!f) {
		TROUBLE(no_frame);
		return 0;
	}
	__builtin_memset(f->query.ancestors, 0, sizeof(f->query.ancestors));
	// Worked out aside: another CPU may be at the same line.
	struct conn *x = &f->conn;
	*x = *c;
	x->slot = number;
	x->identity = own->identity;
	__u32 port = x->peer_by == BY_PORT ? x->peer_host : 0;
	x->peer_by = x->peer_host = 0;
	peer_by_address(k, own, x);
	struct slot *peer = port ? bpf_map_lookup_elem(&slots, &port) : 0;
	if (peer && peer->identity) {
		x->peer_identity = peer->identity;
		x->peer_by = BY_PORT;
		x->peer_host = port;
		if (port == number)
			x->peer_entities |= ENT_SELF;
	}
	ask(f, k, x, own->tables[x->direction & 1]);
	take_over(c, x, revision);
	give_frame(f);
	return 1;
}

static __always_inline void name_line(struct visit *v)
{
	struct packet *p = &v->packet;
	struct conn_key *k = &v->key;
	__builtin_memset(k, 0, sizeof(*k));
	k->family = p->family;
	k->protocol = p->protocol;
	k->netns = GUEST_LINE | v->slot;
	__builtin_memcpy(k->local, v->egress ? p->source : p->destination, 16);
	__builtin_memcpy(k->remote, v->egress ? p->destination : p->source, 16);
	k->local_port = v->egress ? p->source_port : p->destination_port;
	k->remote_port = v->egress ? p->destination_port : p->source_port;
}

static __always_inline __u32 in_force(void)
{
	__u32 zero = 0;
	struct control *now = bpf_map_lookup_elem(&control, &zero);
	return now ? *(volatile __u32 *)&now->revision : 0;
}

// about_line says whether an ICMP error is about a connection of this guest's that
// is allowed: it holds the head of a packet that went the other way.
static __noinline int about_line(struct __sk_buff *skb, const struct visit *v)
{
	const struct packet *p = &v->packet;
	struct conn_key k = {.family = p->family, .netns = GUEST_LINE | v->slot};
	__u32 at = p->transport + 8;
	__be16 ports[4]; // also the identifier of an echo
	if (p->family == 4) {
		struct iphdr ip;
		if (bpf_skb_load_bytes_relative(skb, at, &ip, sizeof(ip), BPF_HDR_START_NET) || ip.ihl < 5 || ip.frag_off & bpf_htons(0x1fff))
			return 0;
		k.protocol = ip.protocol;
		__builtin_memcpy(k.local, v->egress ? &ip.daddr : &ip.saddr, 4);
		__builtin_memcpy(k.remote, v->egress ? &ip.saddr : &ip.daddr, 4);
		at += ip.ihl * 4;
	} else {
		struct ipv6hdr ip6;
		if (bpf_skb_load_bytes_relative(skb, at, &ip6, sizeof(ip6), BPF_HDR_START_NET))
			return 0;
		k.protocol = ip6.nexthdr;
		__builtin_memcpy(k.local, v->egress ? &ip6.daddr : &ip6.saddr, 16);
		__builtin_memcpy(k.remote, v->egress ? &ip6.saddr : &ip6.daddr, 16);
		at += sizeof(ip6);
	}
	if (bpf_skb_load_bytes_relative(skb, at, ports, sizeof(ports), BPF_HDR_START_NET))
		return 0;
	if (k.protocol == IPPROTO_ICMP || k.protocol == IPPROTO_ICMPV6) {
		k.local_port = k.remote_port = ports[2];
	} else if (k.protocol == IPPROTO_TCP || k.protocol == IPPROTO_UDP || k.protocol == IPPROTO_SCTP || k.protocol == IPPROTO_UDPLITE) {
		k.local_port = v->egress ? ports[1] : ports[0];
		k.remote_port = v->egress ? ports[0] : ports[1];
	}
	struct conn *c = bpf_map_lookup_elem(&conns, &k);
	if (!c)
		return 0;
	__u32 revision = in_force();
	if (c->revision != revision && !afresh(skb, &k, v->slot, revision))
		return 0;
	return c->action == ACT_ALLOW;
}

// is_odd says that no such packet has a place on a wire: it would be taken for
// something of the receiver's own (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3 and 2.5.5).
static __always_inline int is_odd(const struct packet *p)
{
	if (is_loopback(p->source, p->family) || is_loopback(p->destination, p->family) || same_address(p->source, p->destination))
		return 1;
	if (p->family == 4)
		return 0;
	const __u64 *from = (const void *)p->source, *to = (const void *)p->destination;
	return (!from[0] && (from[1] & bpf_cpu_to_be64(0xffffffff00000000)) == bpf_cpu_to_be64(0x0000ffff00000000)) ||
	       (!to[0] && (to[1] & bpf_cpu_to_be64(0xffffffff00000000)) == bpf_cpu_to_be64(0x0000ffff00000000));
}

static __noinline int read_frame(struct __sk_buff *skb, struct visit *v)
{
	int bad = read_packet(skb, &v->packet);
	v->packet.length -= ETH_HLEN;
	weigh(skb, &v->packet);
	return bad;
}

// by_table judges a frame that is a packet by the connection table, or else by
// rules. It returns 1 to let it pass.
static __always_inline int by_table(struct __sk_buff *skb, struct visit *v)
{
	struct packet *p = &v->packet;
	name_line(v);
	struct conn *c = bpf_map_lookup_elem(&conns, &v->key);
	if (!c)
		return first_frame(skb, v);
	if (p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		if (c->flags & (CONN_CLOSED | CONN_TCP_RESET | CONN_TCP_FIN_SENT | CONN_TCP_FIN_RECEIVED)) {
			make_way(&v->key, c); // the same ports for another connection
			return first_frame(skb, v);
		}
		if (v->egress != (c->direction == DIR_EGRESS))
			return first_frame(skb, v); // a call the other way is no answer
	}
	__u32 revision = in_force();
	if (c->revision != revision && !afresh(skb, &v->key, v->slot, revision))
		return 0;
	if (c->action != ACT_ALLOW) {
		count_rule(c->rule, 0, p->packets, p->bytes);
		return 0;
	}
	count_packet(c, p, v->egress);
	if (is_hello(c, v->egress))
		hand_hello(skb, &v->key, c, p, v->egress);
	if (!v->egress && p->protocol == IPPROTO_UDP && c->direction == DIR_EGRESS && c->policy_port == bpf_htons(53) && c->peer_entities & ENT_DNS)
		hand_over_lookup(skb, c, p);
	return 1;
}

// passes judges a frame. It returns 1 to let it pass.
static __noinline int passes(struct __sk_buff *skb, struct visit *v)
{
	struct packet *p = &v->packet;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return !v->egress || claims(skb, v);
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6)) {
		int tagged = skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD);
		if (!v->egress)
			return !tagged && v->flags & PORT_OBSERVED;
		return TURNED_AWAY(v, strange) && !tagged;
	}
	if (read_frame(skb, v)) {
		pull(skb);
		if (read_frame(skb, v)) {
			TROUBLE(malformed);
			return 0;
		}
	}
	if (is_odd(p)) {
		if (v->egress)
			TURNED_AWAY(v, borrowed);
		return 0;
	}
	if (v->egress && !at_home(v, p->source, p->family) && !TURNED_AWAY(v, borrowed))
		return 0;
	if (p->protocol == IPPROTO_ICMPV6 && !p->no_ports && p->icmp_type >= NDP_FIRST && p->icmp_type <= NDP_REDIRECT)
		return neighbour(skb, v);
	if (knows_groups(p))
		return 1;
	if (is_icmp_error(p) && !p->no_ports && about_line(skb, v))
		return 1;
	return by_table(skb, v);
}

static __always_inline int handle(struct __sk_buff *skb, int egress)
{
	__u32 ifindex = skb->ifindex;
	struct guest_port *port = bpf_map_lookup_elem(&guests, &ifindex);
	if (!port)
		return FRAME_NEXT; // nobody's subject
	if (!egress) {
		__u64 cookie = bpf_get_socket_cookie(skb);
		if (cookie && bpf_map_lookup_elem(&answerers, &cookie))
			return FRAME_NEXT;
	}
	struct visit *v = take_visit();
	if (!v) {
		TROUBLE(no_frame);
		return port->flags & PORT_METERED ? FRAME_NEXT : FRAME_DROP;
	}
	v->slot = port->slot;
	v->flags = port->flags;
	v->egress = egress;
	int pass = passes(skb, v) || v->flags & PORT_METERED;
	__sync_lock_test_and_set(&v->busy, 0);
	return pass ? FRAME_NEXT : FRAME_DROP;
}

// weft_guest_egress sees what comes in from a port: what its guest has sent.
SEC("tc")
int weft_guest_egress(struct __sk_buff *skb) { return handle(skb, 1); }

// weft_guest_ingress sees what goes out to it.
SEC("tc")
int weft_guest_ingress(struct __sk_buff *skb) { return handle(skb, 0); }
