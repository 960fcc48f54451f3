// What every program does with the tables and the connection table.
#pragma once

static __always_inline int same_address(const __u8 *a, const __u8 *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;
	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline int is_loopback(const __u8 *a, __u8 family)
{
	if (family == 4)
		return a[0] == 127;
	const __u64 *x = (const void *)a;
	return x[0] == 0 && x[1] == bpf_cpu_to_be64(1);
}

static __always_inline void count_rule(__u64 rule, __u64 connections, __u64 packets, __u64 bytes)
{
	struct counts *c = bpf_map_lookup_elem(&counts, &rule);
	if (c) {
		c->connections += connections;
		c->packets += packets;
		c->bytes += bytes;
		return;
	}
	struct counts fresh = {connections, packets, bytes};
	if (bpf_map_update_elem(&counts, &rule, &fresh, BPF_NOEXIST)) { // another CPU was first
		c = bpf_map_lookup_elem(&counts, &rule);
		if (c) {
			c->connections += connections;
			c->packets += packets;
			c->bytes += bytes;
		} else {
			TROUBLE(rules_full);
		}
	}
}

// note_begun counts a line that came into the table.
__attribute__((unused)) static __noinline int note_begun(const struct conn_key *k)
{
	if (!k)
		return 0;
	struct begun b = {.number = CAME(conns), .key = *k};
	bpf_map_push_elem(&begun, &b, 0);
	__u32 zero = 0;
	__u64 *alarm = bpf_map_lookup_elem(&alarm_at, &zero);
	if (alarm && b.number == *alarm)
		bpf_ringbuf_output(&alarms, &b.number, sizeof(b.number), 0);
	return 0;
}

// make_way takes a line out whose ports are another connection's now, and keeps
// what it says for who has not read it yet.
__attribute__((unused)) static __noinline int make_way(const struct conn_key *k, struct conn *c)
{
	if (!k || !c)
		return 0;
	struct past_key past = {.key = *k, .first_ns = c->first_ns};
	if (bpf_map_update_elem(&past_conns, &past, c, BPF_ANY)) {
		TROUBLE(past_full);
		count_rule(c->rule, 0, c->sent_packets + c->received_packets, c->sent_bytes + c->received_bytes);
	} else {
		CAME(past);
	}
	return bpf_map_delete_elem(&conns, k);
}

// turn_down keeps what is to be said of a connection that does not pass.
__attribute__((unused)) static __always_inline void turn_down(const struct conn_key *k, const struct conn *c)
{
	if (!bpf_map_update_elem(&denied, k, c, BPF_ANY))
		CAME(denied);
}

// know_address fills what the peer's address says.
static __always_inline void know_address(const struct conn_key *k, const struct slot *own, struct conn *c)
{
	struct address_key a = {.prefixlen = k->family == 4 ? 40 + 32 : 40 + 128, .book = own->book, .family = k->family};
	__builtin_memcpy(a.address, k->remote, 16);
	struct address *known = bpf_map_lookup_elem(&addresses, &a);
	if (known) {
		c->peer_identity = known->identity;
		c->peer_entities = known->entities;
	}
}

// peer_by_address is who the peer is where nothing but its address tells.
static __always_inline void peer_by_address(const struct conn_key *k, const struct slot *own, struct conn *c)
{
	c->peer_identity = c->peer_entities = 0;
	know_address(k, own, c);
	int loopback = is_loopback(k->remote, k->family);
	if (loopback && own->flags & SLOT_MACHINE_NETNS)
		c->peer_entities |= ENT_HOST;
	if (loopback || same_address(k->local, k->remote)) {
		c->peer_identity = own->identity;
		c->peer_entities |= ENT_SELF;
	}
}

// ask fills the question about a connection and judges it.
static __always_inline void ask(struct frame *f, const struct conn_key *k, struct conn *c, __u32 table)
{
	struct query *q = &f->query;
	q->table = table;
	q->slot = c->slot;
	q->identity = c->peer_identity;
	q->entities = c->peer_entities;
	q->family = k->family;
	q->protocol = k->protocol;
	q->port = c->policy_port;
	__builtin_memcpy(q->peer, k->remote, 16);
	if (c->direction == DIR_EGRESS && c->translated_port)
		__builtin_memcpy(q->peer, c->translated, 16);
	q->exe = c->process.exe;
	q->uid = c->process.uid;
	q->known = c->process.flags & PROC_KNOWN;
	q->peer_exe = c->peer_exe;
	q->peer_uid = c->peer_uid;
	q->peer_known = c->peer_flags & PROC_KNOWN;
	judge(f->number);
	c->rule = q->rule;
	c->action = q->action;
	c->stateless = q->stateless;
	if (q->logged)
		count_rule(q->logged, 1, 0, 0);
}

// take_over gives a line what was worked out anew aside, under another state.
static __always_inline void take_over(struct conn *c, const struct conn *x, __u32 revision)
{
	c->slot = x->slot;
	c->identity = x->identity;
	c->peer_identity = x->peer_identity;
	c->peer_entities = x->peer_entities;
	c->peer_by = x->peer_by;
	c->peer_host = x->peer_host;
	c->peer_flags = x->peer_flags;
	c->peer_exe = x->peer_exe;
	c->peer_uid = x->peer_uid;
	c->rule = x->rule;
	c->action = x->action;
	c->stateless = x->stateless;
	c->revision = revision;
}
