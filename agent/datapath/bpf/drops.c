//go:build ignore

// What the kernel throws away, of connections in the table: counted where it does
// so, with its reason (tracepoint skb:kfree_skb with reasons: 5.17). Nothing runs
// for a packet that arrives.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define CORE __attribute__((preserve_access_index))

struct net { __u64 net_cookie; } CORE;
struct possible_net { struct net *net; } CORE;
struct net_device { struct possible_net nd_net; } CORE;
struct sock_common { __u16 skc_num; struct possible_net skc_net; } CORE;
struct sock { struct sock_common __sk_common; } CORE;
struct skb_shared_info { __u16 gso_segs; } CORE;
struct sk_buff { struct net_device *dev; struct sock *sk; unsigned char *head; unsigned int end; __u16 network_header; __be16 protocol; } CORE;

#include "lines.h"

#define DROP_REASONS 256

// What a reason means, which user space knows by the kernel's name for it.
#define DROP_LOSS 0
#define DROP_NOTHING 1 // nothing that anybody waits for is lost
#define DROP_VERDICT 2 // may be a verdict of programs of ours

volatile const __u8 meanings[DROP_REASONS];

// tells_receiver is 1 where the tracepoint says whose socket was to have the packet
// (6.11).
volatile const __u32 tells_receiver;

// drop is what was thrown away of a connection.
struct drop {
	__u64 first_ns; // the line's: ports come again
	__u64 packets;
	__u32 reason; // of the last of them
	__u32 pad;
};

// drops has an entry for those connections of which something was thrown away.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct conn_key);
	__type(value, struct drop);
} drops SEC(".maps");

// drop_reasons: packets by reason, of all connections in network namespaces with a
// subject. The last stands for all beyond it.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} drop_reasons SEC(".maps");

static __always_inline __u64 namespace_of(struct sk_buff *skb, struct sock *receiver)
{
	struct sock *sk = receiver ? receiver : BPF_CORE_READ(skb, sk);
	if (sk)
		return BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
	return BPF_CORE_READ(skb, dev, nd_net.net, net_cookie);
}

// transport reads the ports as packet.h does. It returns -1 where there are none to
// be read.
static __always_inline int read_ports(struct conn_key *k, const unsigned char *at)
{
	__u8 head[8];
	if (bpf_probe_read_kernel(head, sizeof(head), at))
		return -1;
	if (k->protocol == IPPROTO_ICMP || k->protocol == IPPROTO_ICMPV6) {
		int echo = k->protocol == IPPROTO_ICMP ? head[0] == 8 || head[0] == 0 : head[0] == 128 || head[0] == 129;
		if (echo) {
			__builtin_memcpy(&k->local_port, head + 4, 2);
			k->remote_port = k->local_port;
		}
		return 0;
	}
	if (k->protocol != IPPROTO_TCP && k->protocol != IPPROTO_UDP && k->protocol != IPPROTO_SCTP && k->protocol != IPPROTO_UDPLITE)
		return 0;
	__builtin_memcpy(&k->remote_port, head, 2);
	__builtin_memcpy(&k->local_port, head + 2, 2);
	return 0;
}

// name_received fills the key as whoever receives the packet has it. It returns -1
// where the packet is no connection's, as far as is looked: later fragments, IPv6
// with extension headers.
static __always_inline int name_received(struct conn_key *k, struct sk_buff *skb)
{
	const unsigned char *at = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	__be16 protocol = BPF_CORE_READ(skb, protocol);
	if (protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;
		if (bpf_probe_read_kernel(&ip, sizeof(ip), at) || ip.version != 4 || ip.ihl < 5 || ip.frag_off & bpf_htons(0x1fff))
			return -1;
		k->family = 4;
		k->protocol = ip.protocol;
		__builtin_memcpy(k->remote, &ip.saddr, 4);
		__builtin_memcpy(k->local, &ip.daddr, 4);
		return read_ports(k, at + ip.ihl * 4);
	}
	if (protocol != bpf_htons(ETH_P_IPV6))
		return -1;
	struct ipv6hdr ip6;
	if (bpf_probe_read_kernel(&ip6, sizeof(ip6), at) || ip6.version != 6)
		return -1;
	k->family = 6;
	k->protocol = ip6.nexthdr;
	__builtin_memcpy(k->remote, &ip6.saddr, 16);
	__builtin_memcpy(k->local, &ip6.daddr, 16);
	return read_ports(k, at + sizeof(ip6));
}

static __always_inline void turn_around(struct conn_key *k)
{
	__u8 address[16];
	__be16 port = k->local_port;
	__builtin_memcpy(address, k->local, 16);
	__builtin_memcpy(k->local, k->remote, 16);
	__builtin_memcpy(k->remote, address, 16);
	k->local_port = k->remote_port;
	k->remote_port = port;
}

static __always_inline void count_drop(const struct conn_key *k, const struct conn *c, __u32 reason, __u32 packets)
{
	struct drop first = {.first_ns = c->first_ns, .packets = packets, .reason = reason};
	struct drop *d = bpf_map_lookup_elem(&drops, k);
	if (!d && !bpf_map_update_elem(&drops, k, &first, BPF_NOEXIST)) {
		CAME(drops);
		return;
	}
	if (!d)
		d = bpf_map_lookup_elem(&drops, k);
	if (!d)
		return; // no room: it is in drop_reasons
	if (d->first_ns != first.first_ns) {
		bpf_map_update_elem(&drops, k, &first, BPF_ANY);
		return;
	}
	__sync_fetch_and_add(&d->packets, packets);
	d->reason = reason;
}

SEC("tp_btf/kfree_skb")
int weft_drops(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	__u32 reason = (__u32)ctx[2];
	struct sock *receiver = 0;
	if (reason >= DROP_REASONS) // of a part of the kernel that numbers its own
		reason = DROP_REASONS - 1;
	__u8 meaning = meanings[reason & (DROP_REASONS - 1)];
	if (meaning == DROP_NOTHING)
		return 0;
	if (tells_receiver)
		receiver = (void *)ctx[3];
	struct conn_key k = {};
	k.netns = namespace_of(skb, receiver);
	if (!k.netns || name_received(&k, skb))
		return 0;
	// Of a packet within a namespace both ends are here: it is its sender's until
	// the sender's socket has let go of it.
	struct sock *holder = receiver ? 0 : BPF_CORE_READ(skb, sk);
	if (holder && BPF_CORE_READ(holder, __sk_common.skc_num) == bpf_ntohs(k.remote_port))
		turn_around(&k);
	struct conn *c = bpf_map_lookup_elem(&conns, &k);
	int refused = meaning == DROP_VERDICT && bpf_map_lookup_elem(&denied, &k);
	if (!c) {
		turn_around(&k);
		c = bpf_map_lookup_elem(&conns, &k);
		refused = refused || (meaning == DROP_VERDICT && bpf_map_lookup_elem(&denied, &k));
	}
	if (refused)
		return 0; // its line among those turned down has counted it
	if (!c && !bpf_map_lookup_elem(&namespaces, &k.netns))
		return 0;
	unsigned char *head = BPF_CORE_READ(skb, head);
	struct skb_shared_info *shared = (void *)(head + BPF_CORE_READ(skb, end));
	__u32 packets = BPF_CORE_READ(shared, gso_segs);
	if (!packets)
		packets = 1;
	__u64 *sum = bpf_map_lookup_elem(&drop_reasons, &reason);
	if (sum)
		__sync_fetch_and_add(sum, packets);
	if (c)
		count_drop(&k, c, reason, packets);
	return 0;
}
