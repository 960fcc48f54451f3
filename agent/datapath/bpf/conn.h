// A packet's connection as its socket sees it: who is at both ends, and counting.
#pragma once

#define TCP_LISTEN 10
#define TCP_CLOSE_STATE 7
#define SOCK_STREAM_TYPE 1

// subject_of_packet finds the subject that a packet's socket belongs to: the
// longest cgroup above it that is one's. It fills the ids of the cgroups above.
static __always_inline __u32 subject_of_packet(struct __sk_buff *skb, struct query *q, __u64 netns)
{
	__u64 id = bpf_skb_cgroup_id(skb);
	__u32 *found = bpf_map_lookup_elem(&cgroups, &id), slot = found ? *found : 0;
	int have = found != 0;
#pragma unroll
	for (int level = ANCESTORS - 1; level >= 0; level--) {
		id = bpf_skb_ancestor_cgroup_id(skb, level);
		q->ancestors[level] = id;
		if (!id || have)
			continue;
		found = bpf_map_lookup_elem(&cgroups, &id);
		if (found) {
			slot = *found;
			have = 1;
		}
	}
	if (!q->ancestors[1]) {
		// The root of the tree: the kernel's own sockets are there, and speak for
		// their network namespace.
		found = bpf_map_lookup_elem(&namespaces, &netns);
		if (found)
			slot = *found;
	}
	return slot;
}

static __always_inline __u32 subject_of_socket(struct bpf_sock *sk)
{
	__u64 id = bpf_sk_cgroup_id(sk);
	__u32 *found = bpf_map_lookup_elem(&cgroups, &id);
	if (found)
		return *found;
#pragma unroll
	for (int level = ANCESTORS - 1; level >= 0; level--) {
		id = bpf_sk_ancestor_cgroup_id(sk, level);
		if (!id)
			continue;
		found = bpf_map_lookup_elem(&cgroups, &id);
		if (found)
			return *found;
	}
	return 0;
}

// find_socket looks in this network namespace for the socket that receives what
// from sends to to.
static __always_inline struct bpf_sock *find_socket(void *ctx, const struct conn_key *k, int toward_remote, int any_sender)
{
	struct bpf_sock_tuple t = {};
	const __u8 *from = toward_remote ? k->local : k->remote, *to = toward_remote ? k->remote : k->local;
	__be16 from_port = any_sender ? 0 : toward_remote ? k->local_port : k->remote_port, to_port = toward_remote ? k->remote_port : k->local_port;
	if (k->family == 4) {
		__builtin_memcpy(&t.ipv4.saddr, from, 4);
		__builtin_memcpy(&t.ipv4.daddr, to, 4);
		t.ipv4.sport = from_port;
		t.ipv4.dport = to_port;
		if (k->protocol == IPPROTO_TCP)
			return bpf_sk_lookup_tcp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
		return bpf_sk_lookup_udp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	__builtin_memcpy(&t.ipv6.saddr, from, 16);
	__builtin_memcpy(&t.ipv6.daddr, to, 16);
	t.ipv6.sport = from_port;
	t.ipv6.dport = to_port;
	if (k->protocol == IPPROTO_TCP)
		return bpf_sk_lookup_tcp(ctx, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	return bpf_sk_lookup_udp(ctx, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
}

// local_peer finds the other end where it is a socket of this namespace. It
// returns its slot, or 0, and fills what is known of its process.
static __always_inline __u32 local_peer(void *ctx, const struct conn_key *k, struct conn *c)
{
	struct conn_key other = {.local_port = k->remote_port, .remote_port = k->local_port, .protocol = k->protocol, .family = k->family, .netns = k->netns};
	__builtin_memcpy(other.local, k->remote, 16);
	__builtin_memcpy(other.remote, k->local, 16);
	struct conn *line = bpf_map_lookup_elem(&conns, &other);
	if (line) {
		c->peer_flags = line->process.flags;
		c->peer_exe = line->process.exe;
		c->peer_uid = line->process.uid;
		return line->slot;
	}
	if (k->protocol != IPPROTO_TCP && k->protocol != IPPROTO_UDP)
		return 0;
	struct bpf_sock *sk = find_socket(ctx, k, 1, 0);
	if (!sk)
		return 0;
	__u32 slot = subject_of_socket(sk);
	struct process *p = bpf_sk_storage_get(&processes, sk, 0, 0);
	if (p) {
		c->peer_flags = p->flags;
		c->peer_exe = p->exe;
		c->peer_uid = p->uid;
	}
	bpf_sk_release(sk);
	return slot;
}

// know_peer finds out who the peer is, as far as can be told here.
__attribute__((unused)) static __noinline int know_peer(void *ctx, const struct conn_key *k, const struct slot *own, struct conn *c)
{
	if (!k || !own || !c)
		return 0;
	peer_by_address(k, own, c);
	int loopback = is_loopback(k->remote, k->family), same = same_address(k->local, k->remote);
	// A socket that listens on every address would be found for any: look for
	// one only where the address is this namespace's own.
	if (!loopback && !same && !(own->flags & SLOT_MACHINE_NETNS && c->peer_entities & ENT_HOST))
		return 0;
	__u32 slot = local_peer(ctx, k, c);
	struct slot *peer = slot ? bpf_map_lookup_elem(&slots, &slot) : 0;
	if (peer && peer->identity) { // one without is only metered: it is who its address says
		c->peer_identity = peer->identity;
		c->peer_by = BY_SOCKET;
		c->peer_entities &= ~ENT_SELF;
		if (slot == c->slot)
			c->peer_entities |= ENT_SELF;
	}
	return 0;
}

static __always_inline void follow_tcp(struct conn *c, const struct packet *p, int egress)
{
	__u32 add = 0;
	if (p->tcp_flags & TCP_RST)
		add |= CONN_TCP_RESET;
	if (p->tcp_flags & TCP_FIN)
		add |= egress ? CONN_TCP_FIN_SENT : CONN_TCP_FIN_RECEIVED;
	if (p->tcp_flags & TCP_SYN)
		add |= CONN_TCP_SYN;
	int from_first = egress == (c->direction == DIR_EGRESS);
	if (!from_first)
		add |= CONN_TCP_ANSWERED;
	else if (c->flags & CONN_TCP_ANSWERED)
		add |= CONN_TCP_ESTABLISHED;
	if (add & ~c->flags)
		__sync_fetch_and_or(&c->flags, add);
	__u32 seen = egress ? p->tcp_flags : (__u32)p->tcp_flags << 8;
	if (seen & ~c->tcp_flags)
		__sync_fetch_and_or(&c->tcp_flags, seen);
}

static __always_inline void count_packet(struct conn *c, const struct packet *p, int egress)
{
	c->last_ns = bpf_ktime_get_boot_ns();
	if (egress) {
		__sync_fetch_and_add(&c->sent_packets, p->packets);
		__sync_fetch_and_add(&c->sent_bytes, p->bytes);
	} else {
		__sync_fetch_and_add(&c->received_packets, p->packets);
		__sync_fetch_and_add(&c->received_bytes, p->bytes);
	}
	if (p->protocol == IPPROTO_TCP)
		follow_tcp(c, p, egress);
	else if (egress != (c->direction == DIR_EGRESS) && !(c->flags & CONN_TCP_ANSWERED))
		__sync_fetch_and_or(&c->flags, CONN_TCP_ANSWERED);
}

// keep_line puts a connection into the table, with its first packet.
static __always_inline void keep_line(const struct conn_key *k, struct conn *c, const struct packet *p, int egress)
{
	count_packet(c, p, egress);
	if (!bpf_map_update_elem(&conns, k, c, BPF_NOEXIST)) {
		note_begun(k);
		return;
	}
	struct conn *there = bpf_map_lookup_elem(&conns, k);
	if (there && there->direction == c->direction) { // another CPU was first
		count_packet(there, p, egress);
		return;
	}
	if (there) {
		make_way(k, there);
		if (!bpf_map_update_elem(&conns, k, c, BPF_ANY)) {
			note_begun(k);
			return;
		}
	}
	TROUBLE(table_full);
	count_rule(c->rule, 0, p->packets, p->bytes);
}

// turned_down remembers a connection that does not pass.
static __always_inline void turned_down(const struct conn_key *k, struct conn *c, const struct packet *p, int egress)
{
	count_rule(c->rule, 0, p->packets, p->bytes);
	struct conn *old = bpf_map_lookup_elem(&denied, k);
	if (old && old->rule == c->rule && old->direction == c->direction) {
		old->revision = c->revision;
		count_packet(old, p, egress);
	} else {
		c->sent_packets = c->sent_bytes = c->received_packets = c->received_bytes = 0;
		count_packet(c, p, egress);
		turn_down(k, c);
		count_rule(c->rule, 1, 0, 0);
	}
}

// clamp makes a length one of 1 to most, so that every verifier sees that it is: that
// of Linux 6.1 does not learn from a comparison that it is not 0. It must not be.
static __always_inline __u32 clamp(__u32 n, const __u32 most)
{
	n--;
	if (n >= most)
		n = most - 1;
	asm volatile("" : "+r"(n)); // what comes next is not to be put together with that
	return n + 1;
}

// tell_sender asks user space to say to the sender that its packet was rejected.
static __always_inline void tell_sender(struct __sk_buff *skb, const struct conn_key *k, const struct packet *p)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return;
	e->netns = k->netns;
	e->length = p->length;
	e->family = k->family;
	e->protocol = k->protocol;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
	__builtin_memset(e->head, 0, sizeof(e->head));
	// The network header and the beginning of what it carries.
	bpf_skb_load_bytes_relative(skb, 0, e->head, clamp(p->length, EVENT_HEAD), BPF_HDR_START_NET);
	bpf_ringbuf_submit(e, 0);
}

// NETWORK_HEADER is where it begins in what programs of a kind see. Reading from
// there by its own name reaches only the part of a packet that lies in one piece.
#ifndef NETWORK_HEADER
#define NETWORK_HEADER 0
#endif

// hello_wanted is 1 where user space reads hellos.
volatile const __u32 hello_wanted;

// hand_piece hands over up to room bytes, which are at the offset at.
static __always_inline void hand_piece(struct __sk_buff *skb, const struct conn_key *k, const struct conn *c, const struct packet *p, __u32 at, __u32 n, int called, const __u32 room)
{
	struct hello *o = bpf_ringbuf_reserve(&hellos, __builtin_offsetof(struct hello, bytes) + room, 0);
	if (!o) {
		TROUBLE(hellos_lost);
		return;
	}
	n = clamp(n, room);
	o->key = *k;
	o->first_ns = c->first_ns;
	o->now_ns = bpf_ktime_get_boot_ns();
	o->seq = bpf_ntohl(p->seq);
	o->called = called;
	o->pad = 0;
	o->length = n;
	if (bpf_skb_load_bytes(skb, NETWORK_HEADER + at, o->bytes, n)) {
		bpf_ringbuf_discard(o, 0);
		return;
	}
	bpf_ringbuf_submit(o, 0);
}

// hello_affordable says whether another piece may be handed over.
static __always_inline int hello_affordable(void)
{
	__u32 zero = 0;
	struct hello_budget *b = bpf_map_lookup_elem(&hello_budget, &zero);
	__u64 window = bpf_ktime_get_boot_ns() >> HELLO_WINDOW;
	if (!b)
		return 0;
	if (b->window != window) {
		b->window = window;
		b->spent = 0;
	}
	return b->spent++ < HELLO_BUDGET;
}

// hand_hello gives user space what is among the first that an end says.
static __noinline int hand_hello(struct __sk_buff *skb, const struct conn_key *k, struct conn *c, const struct packet *p, int egress)
{
	if (!k || !c || !p)
		return 0;
	__u32 at = p->transport + p->header, length = p->length, slot = c->slot;
	int called = egress != (c->direction == DIR_EGRESS);
	if (!p->header || p->no_ports || length <= at)
		return 0;
	struct slot *own = bpf_map_lookup_elem(&slots, &slot);
	int late = p->protocol != IPPROTO_TCP && bpf_ktime_get_boot_ns() - c->first_ns > HELLO_TIME_NS;
	if (!own || own->flags & SLOT_UNNAMED || c->flags & CONN_MIDSTREAM || late) {
		c->handed[0] = c->handed[1] = HELLO_PIECES;
		return 0;
	}
	c->handed[called & 1]++;
	if (!hello_affordable()) {
		TROUBLE(hellos_lost);
		return 0;
	}
	if (length - at <= HELLO_SHORT || (called && p->protocol == IPPROTO_TCP))
		hand_piece(skb, k, c, p, at, length - at, called, HELLO_SHORT);
	else
		hand_piece(skb, k, c, p, at, length - at, called, HELLO_MAX);
	return 0;
}

// is_hello says whether a packet may be one to hand over.
static __always_inline int is_hello(const struct conn *c, int egress)
{
	return hello_wanted && c->handed[egress != (c->direction == DIR_EGRESS)] < HELLO_PIECES;
}

// hand_over_lookup gives user space an answer of a resolver.
static __noinline int hand_over_lookup(struct __sk_buff *skb, struct conn *c, const struct packet *p)
{
	if (!c || !p)
		return 0;
	__u32 at = p->transport + 8, length = p->length;
	if (length <= at)
		return 0;
	length = clamp(length - at, LOOKUP_MAX);
	struct lookup *l = bpf_ringbuf_reserve(&lookups, sizeof(*l), 0);
	if (!l) {
		TROUBLE(lookups_lost);
		return 0;
	}
	l->slot = c->slot;
	l->length = length;
	if (bpf_skb_load_bytes(skb, NETWORK_HEADER + at, l->message, length))
		l->length = 0;
	bpf_ringbuf_submit(l, 0);
	return 0;
}
