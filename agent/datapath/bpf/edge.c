//go:build ignore

// What no socket sees: a network namespace's own answers to ICMP requests, and
// protocols that the kernel ends by itself. Attached at NF_INET_LOCAL_IN of each
// namespace that has a subject (netfilter links and kfuncs on packets: 6.4).
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define CORE __attribute__((preserve_access_index))

struct net { __u64 net_cookie; } CORE;
struct possible_net { struct net *net; } CORE;
struct net_device { struct possible_net nd_net; } CORE;
struct sk_buff { struct net_device *dev; unsigned int len; } CORE;
struct nf_hook_state { __u8 pf; } CORE;
struct bpf_nf_ctx { const struct nf_hook_state *state; struct sk_buff *skb; } CORE;

#define NF_DROP 0
#define NF_ACCEPT 1
#define PF_INET6 10

extern int bpf_dynptr_from_skb(struct sk_buff *skb, __u64 flags, struct bpf_dynptr *ptr) __ksym;

#include "lines.h"
#include "judge.h"
#include "table.h"

// requests are the ICMP types that the kernel answers by itself.
static __always_inline int is_request(__u8 protocol, __u8 type)
{
	if (protocol == IPPROTO_ICMPV6)
		return type == 128;
	return type == 8 || type == 13 || type == 15 || type == 17;
}

static __noinline int judge_edge(struct conn_key *k, __be16 port, __u32 length)
{
	__u32 zero = 0;
	int pass = 0;
	struct control *now = bpf_map_lookup_elem(&control, &zero);
	if (!k || !now)
		return 0;
	struct frame *f = take_frame();
	if (!f) {
		TROUBLE(no_frame);
		return 0;
	}
	struct conn *c = &f->conn;
	__builtin_memset(c, 0, sizeof(*c));
	__builtin_memset(f->query.ancestors, 0, sizeof(f->query.ancestors));
	c->revision = *(volatile __u32 *)&now->revision;
	__u64 netns = k->netns;
	__u32 *number = bpf_map_lookup_elem(&namespaces, &netns);
	c->slot = number ? *number : 0;
	struct slot *own = bpf_map_lookup_elem(&slots, &c->slot);
	if (!own) {
		pass = 1;
		goto out;
	}
	c->identity = own->identity;
	c->first_ns = c->last_ns = bpf_ktime_get_boot_ns();
	c->direction = DIR_INGRESS;
	c->policy_port = port;
	peer_by_address(k, own, c);
	ask(f, k, c, own->tables[DIR_INGRESS]);
	c->received_packets = 1;
	c->received_bytes = length;
	count_rule(c->rule, 1, c->action == ACT_ALLOW && !c->stateless ? 0 : 1, c->action == ACT_ALLOW && !c->stateless ? 0 : length);
	if (c->action != ACT_ALLOW) {
		turn_down(k, c);
		goto out;
	}
	pass = 1;
	if (c->stateless)
		goto out;
	if (bpf_map_update_elem(&conns, k, c, BPF_ANY))
		TROUBLE(table_full);
	else
		note_begun(k);
out:
	give_frame(f);
	return pass;
}

// at_socket says whether a protocol is judged at its socket.
static __always_inline int at_socket(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP || protocol == IPPROTO_UDPLITE;
}

SEC("netfilter")
int weft_edge(struct bpf_nf_ctx *ctx)
{
	struct sk_buff *skb = ctx->skb;
	struct bpf_dynptr data;
	__u32 zero = 0, at = sizeof(struct iphdr);
	int six = ctx->state->pf == PF_INET6;
	__u8 protocol;
	if (bpf_dynptr_from_skb(skb, 0, &data))
		return NF_DROP;
	// Nearly every packet ends here.
	if (bpf_dynptr_read(&protocol, 1, &data, six ? offsetof(struct ipv6hdr, nexthdr) : offsetof(struct iphdr, protocol), 0))
		return NF_DROP;
	if (at_socket(protocol))
		return NF_ACCEPT;
	struct conn_key k = {.netns = skb->dev->nd_net.net->net_cookie, .protocol = protocol};
	if (six) {
		struct ipv6hdr ip6;
		if (bpf_dynptr_read(&ip6, sizeof(ip6), &data, 0, 0))
			return NF_DROP;
		k.family = 6;
		__builtin_memcpy(k.local, &ip6.daddr, 16);
		__builtin_memcpy(k.remote, &ip6.saddr, 16);
		at = sizeof(ip6);
	} else {
		struct iphdr ip;
		if (bpf_dynptr_read(&ip, sizeof(ip), &data, 0, 0))
			return NF_DROP;
		k.family = 4;
		__builtin_memcpy(k.local, &ip.daddr, 4);
		__builtin_memcpy(k.remote, &ip.saddr, 4);
		at = ip.ihl * 4;
	}
	__be16 port = 0;
	if (k.protocol == IPPROTO_ICMP || k.protocol == IPPROTO_ICMPV6) {
		__u8 icmp[8];
		if (bpf_dynptr_read(icmp, sizeof(icmp), &data, at, 0))
			return NF_DROP;
		if (!is_request(k.protocol, icmp[0]))
			return NF_ACCEPT; // answers and errors; whoever asked has a socket
		port = bpf_htons(icmp[0] << 8 | icmp[1]);
		__builtin_memcpy(&k.local_port, icmp + 4, 2);
		k.remote_port = k.local_port;
	}
	struct control *now = bpf_map_lookup_elem(&control, &zero);
	struct conn *c = bpf_map_lookup_elem(&conns, &k);
	if (c && now && c->revision == now->revision && c->policy_port == port && c->direction == DIR_INGRESS) {
		c->last_ns = bpf_ktime_get_boot_ns();
		__sync_fetch_and_add(&c->received_packets, 1);
		__sync_fetch_and_add(&c->received_bytes, skb->len);
		return c->action == ACT_ALLOW ? NF_ACCEPT : NF_DROP;
	}
	return judge_edge(&k, port, skb->len) ? NF_ACCEPT : NF_DROP;
}
