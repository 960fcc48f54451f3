// Who calls, carried in the SYN (docs/decisions/0060):
//
//	 0      1      2        4         8          12             20
//	+------+------+--------+---------+----------+--------------+
//	| 254  |  20  | 0x5745 | host    | identity | tag          |
//	+------+------+--------+---------+----------+--------------+
//
// An option for experiments (RFC 6994), all in network order but the tag, which is
// SipHash-2-4 over the identity and the sequence number as they lie in the
// packet, under a secret of that host and the receiver's for calls that way.
// Written by weft_tcp as the kernel writes the header, read at the receiver's socket.
#pragma once

#define OPTION_KIND 254
#define OPTION_EXID 0x5745
#define OPTION_LENGTH 20
#define OPTION_SPACE 40 // all options of a header
// A SYN that is sent for the third time goes without: something on the way may
// drop what it does not know.
#define OPTION_RESENT 2
// For how long: SYNs are sent again for two minutes.
#define OPTION_REMEMBERED (130ULL * 1000000000)

struct option {
	__u8 kind, length;
	__be16 exid;
	__be32 host;
	__be32 identity;
	__be32 tag[2];
};

// badges: what the sockets of a cgroup, and of those below it, call themselves.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_SUBJECTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} badges SEC(".maps");

// callees: addresses at which somebody can read the option, and what seals it.
struct callee_key {
	__u8 address[16]; // IPv4 as in address_key
	__u32 family;	  // 4 or 6
};

struct callee {
	__u64 secret[2];
	__u32 host; // this one
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct callee_key);
	__type(value, struct callee);
} callees SEC(".maps");

// callers: what a host may seal its calls with, by its number. Secrets change by
// the clock, so that those before and after the present one are good too.
#define SECRETS 3
struct caller {
	__u64 secrets[SECRETS][2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct caller);
} callers SEC(".maps");

// residents: the identities that live on a host, all that it may speak for.
struct resident {
	__u32 host;
	__u32 identity;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct resident);
	__type(value, __u32);
} residents SEC(".maps");

// spent: the connection that a tag has been good for.
struct spent_key {
	__u32 tag[2];
	__u32 host;
	__u32 identity;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct spent_key);
	__type(value, struct conn_key);
} spent SEC(".maps");

// options counts what became of them; one line per CPU.
struct option_counts {
	__u64 written;
	__u64 no_room;	    // too many other options
	__u64 accepted;
	__u64 unknown_host; // whose secrets are not known here
	__u64 wrong_tag;    // forged, or the sequence number was changed on the way
	__u64 not_resident; // the host speaks for somebody who does not live there
	__u64 replayed;	    // seen with another connection
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct option_counts);
} options SEC(".maps");

static __always_inline void count_option(__u64 at)
{
	__u32 zero = 0;
	void *t = bpf_map_lookup_elem(&options, &zero);
	if (t)
		(*(__u64 *)(t + at))++;
}
#define OPTION(what) count_option(__builtin_offsetof(struct option_counts, what))

static __always_inline void seal_option(const __u64 *secret, __be32 identity, __be32 seq, __be32 *tag)
{
	struct sip s;
	__be32 message[2] = {identity, seq};
	__u64 word;
	__builtin_memcpy(&word, message, 8);
	sip_begin(&s, secret);
	sip_word(&s, word);
	word = sip_end(&s, 0, 8);
	__builtin_memcpy(tag, &word, 8);
}

// Sending.

struct kernfs_node { __u64 id; } CORE;
struct cgroup_subsys_state { struct cgroup_subsys_state *parent; } CORE;
struct cgroup { struct cgroup_subsys_state self; struct kernfs_node *kn; } CORE;
struct sock_cgroup_data { struct cgroup *cgroup; } CORE;
struct sock___cgroup { struct sock_cgroup_data sk_cgrp_data; } CORE;

// badge_of is the identity of the longest cgroup above a socket that has one: the
// same that its packets are judged as. No helper answers here; this is what
// bpf_sk_ancestor_cgroup_id reads.
static __always_inline __u32 badge_of(struct bpf_sock *bpf)
{
	struct sock___cgroup *sk = bpf ? (void *)bpf_skc_to_tcp_sock(bpf) : 0;
	if (!sk)
		return 0;
	struct cgroup *group = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	for (int i = 0; i < 2 * ANCESTORS; i++) {
		if (!group)
			return 0;
		__u64 id = BPF_CORE_READ(group, kn, id);
		__u32 *identity = bpf_map_lookup_elem(&badges, &id);
		if (identity)
			return *identity;
		struct cgroup_subsys_state *above = BPF_CORE_READ(group, self.parent);
		group = above ? (void *)above - bpf_core_field_offset(struct cgroup, self) : 0;
	}
	return 0;
}

static __always_inline struct callee *callee_of(struct bpf_sock_ops *ops)
{
	struct callee_key key = {.family = 4};
	__u32 v4 = ops->remote_ip4;
	if (ops->family == 10) {
		__u32 a[4];
		READ_WORDS(a, ops->remote_ip6);
		if (!a[0] && !a[1] && a[2] == bpf_htonl(0xffff)) { // an IPv4 address in IPv6's clothes
			v4 = a[3];
		} else {
			key.family = 6;
			__builtin_memcpy(key.address, a, 16);
		}
	}
	if (key.family == 4)
		__builtin_memcpy(key.address, &v4, 4);
	return bpf_map_lookup_elem(&callees, &key);
}

// offer_option asks to be called for the SYN where its receiver can read it.
static __always_inline void offer_option(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	__u32 flags = ops->bpf_sock_ops_cb_flags;
	if (!sk || flags & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG || !callee_of(ops) || !badge_of(sk))
		return;
	struct process *p = bpf_sk_storage_get(&processes, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!p)
		return;
	p->flags |= PROC_OPTION;
	bpf_sock_ops_cb_flags_set(ops, flags | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

// end_option asks for no more calls, unless others have asked before.
static __always_inline void end_option(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct process *p = sk ? bpf_sk_storage_get(&processes, sk, 0, 0) : 0;
	if (!p || !(p->flags & PROC_OPTION))
		return;
	p->flags &= ~PROC_OPTION;
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

static __always_inline int is_opening(struct bpf_sock_ops *ops)
{
	return (ops->skb_tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && ops->total_retrans < OPTION_RESENT;
}

static __noinline int reserve_option(struct bpf_sock_ops *ops)
{
	if (is_opening(ops) && bpf_reserve_hdr_opt(ops, OPTION_LENGTH, 0))
		OPTION(no_room);
	return 1;
}

static __noinline int write_option(struct bpf_sock_ops *ops)
{
	void *end = (void *)(long)ops->skb_data_end;
	struct tcphdr *header = (void *)(long)ops->skb_data;
	if (!is_opening(ops) || (void *)(header + 1) > end)
		return 1;
	__be32 seq = header->seq;
	struct callee *to = callee_of(ops);
	__u32 identity = badge_of(ops->sk);
	if (!to || !identity)
		return 1;
	struct option o = {.kind = OPTION_KIND, .length = OPTION_LENGTH, .exid = bpf_htons(OPTION_EXID), .host = bpf_htonl(to->host), .identity = bpf_htonl(identity)};
	seal_option(to->secret, o.identity, seq, o.tag);
	if (!bpf_store_hdr_opt(ops, &o, sizeof(o), 0))
		OPTION(written);
	return 1;
}

// Receiving.

struct option_scan {
	__u8 bytes[64]; // more than OPTION_SPACE, for indices to be masked
	__u32 length, at;
	__u32 found; // where it begins, plus one
};

static long scan_option(__u32 n, struct option_scan *s)
{
	__u32 at = s->at;
	if (at + 1 >= s->length || at >= OPTION_SPACE)
		return 1;
	asm volatile("" : "+r"(at)); // or the compiler leaves out what some verifiers need
	__u8 kind = s->bytes[at & 63], length = s->bytes[(at + 1) & 63];
	if (kind == 0)
		return 1;
	if (kind == 1) {
		s->at = at + 1;
		return 0;
	}
	if (length < 2 || at + length > s->length)
		return 1;
	if (kind == OPTION_KIND && length == OPTION_LENGTH && s->bytes[(at + 2) & 63] == OPTION_EXID >> 8 && s->bytes[(at + 3) & 63] == (OPTION_EXID & 255)) {
		s->found = at + 1;
		return 1;
	}
	s->at = at + length;
	return 0;
}

// claim is an option as it was found.
struct claim {
	struct option option; // of kind 0 where there is none
	__be32 seq;
};

// find_option reads the first option of ours of the TCP header that begins at; it
// returns 0 where there is one.
static __noinline int find_option(struct __sk_buff *skb, __u32 at, struct claim *o)
{
	struct option_scan s = {};
	__u8 head[16];
	if (!o || bpf_skb_load_bytes_relative(skb, at, head, sizeof(head), BPF_HDR_START_NET))
		return -1;
	__builtin_memcpy(&o->seq, head + 4, 4);
	__u32 n = (head[12] >> 4) * 4;
	if (n < sizeof(struct tcphdr) + OPTION_LENGTH)
		return -1;
	n -= sizeof(struct tcphdr);
	if (n > OPTION_SPACE || bpf_skb_load_bytes_relative(skb, at + sizeof(struct tcphdr), s.bytes, n, BPF_HDR_START_NET))
		return -1;
	s.length = n;
	bpf_loop(OPTION_SPACE, scan_option, &s, 0);
	__u32 from = s.found - 1;
	if (from > OPTION_SPACE - OPTION_LENGTH)
		return -1;
	return bpf_skb_load_bytes_relative(skb, at + sizeof(struct tcphdr) + from, &o->option, sizeof(o->option), BPF_HDR_START_NET);
}

// believe says whether an option is what its host wrote for this connection.
static __always_inline int believe(const struct option *o, __be32 seq, const struct conn_key *k)
{
	__u32 number = bpf_ntohl(o->host);
	struct caller *from = bpf_map_lookup_elem(&callers, &number);
	if (!from) {
		OPTION(unknown_host);
		return 0;
	}
	int good = 0;
#pragma nounroll
	for (int i = 0; i < SECRETS; i++) {
		__be32 tag[2];
		seal_option(from->secrets[i], o->identity, seq, tag);
		good |= !((tag[0] ^ o->tag[0]) | (tag[1] ^ o->tag[1]));
	}
	if (!good) {
		OPTION(wrong_tag);
		return 0;
	}
	struct resident who = {number, bpf_ntohl(o->identity)};
	if (!bpf_map_lookup_elem(&residents, &who)) {
		OPTION(not_resident);
		return 0;
	}
	struct spent_key once = {{o->tag[0], o->tag[1]}, o->host, o->identity};
	if (bpf_map_update_elem(&spent, &once, k, BPF_NOEXIST)) {
		struct conn_key *before = bpf_map_lookup_elem(&spent, &once);
		if (!before || before->netns != k->netns || before->local_port != k->local_port || before->remote_port != k->remote_port ||
		    before->family != k->family || !same_address(before->local, k->local) || !same_address(before->remote, k->remote)) {
			OPTION(replayed);
			return 0;
		}
	}
	return 1;
}

// take_identity turns what the address said into what the option says. What else
// the address is, its machine is, and not somebody who hides behind it.
static __always_inline void take_identity(struct conn *c, __u32 host, __u32 identity)
{
	if (identity != c->peer_identity)
		c->peer_entities = 0;
	c->peer_identity = identity;
	c->peer_host = host;
	c->peer_by = BY_OPTION;
}

// weigh_option takes from a SYN's option, or from none, who calls. Where that cannot
// be believed, what the address says stays.
static __noinline int weigh_option(const struct claim *o, const struct conn_key *k, struct conn *c)
{
	if (!o || !k || !c)
		return 0;
	if (o->option.kind && believe(&o->option, o->seq, k)) {
		OPTION(accepted);
		take_identity(c, bpf_ntohl(o->option.host), bpf_ntohl(o->option.identity));
		return 0;
	}
	// Sent again without it: whoever was turned down does not pass as its machine.
	struct conn *before = bpf_map_lookup_elem(&denied, k);
	if (before && before->peer_by == BY_OPTION && before->last_ns + OPTION_REMEMBERED > bpf_ktime_get_boot_ns())
		take_identity(c, before->peer_host, before->peer_identity);
	return 0;
}

// know_option finds out from a SYN who calls.
static __always_inline void know_option(struct __sk_buff *skb, const struct packet *p, const struct conn_key *k, struct conn *c)
{
	struct claim o = {};
	if (find_option(skb, p->transport, &o))
		o.option.kind = 0;
	weigh_option(&o, k, c);
}

// recheck_option forgets what an option said where that identity is no more on
// its host.
static __always_inline void recheck_option(struct conn *c)
{
	struct resident who = {c->peer_host, c->peer_identity};
	if (c->peer_by != BY_OPTION || bpf_map_lookup_elem(&residents, &who))
		return;
	c->peer_by = 0;
	c->peer_identity = c->peer_entities = c->peer_host = 0;
}

// weft_siphash answers for the packet's bytes, a key, a length and up to 64
// bytes: user space compares with the paper and a library. It is attached nowhere.
struct siphash_question {
	__u64 key[2];
	__u32 length, pad;
	__u64 words[8];
};

SEC("cgroup_skb/egress")
int weft_siphash(struct __sk_buff *skb)
{
	struct siphash_question q;
	struct sip s;
	__u32 zero = 0;
	if (bpf_skb_load_bytes(skb, 0, &q, sizeof(q)))
		return 0;
	sip_begin(&s, q.key);
	__u64 rest = 0;
	for (__u32 i = 0; i < 8; i++) {
		if ((i + 1) * 8 <= q.length)
			sip_word(&s, q.words[i]);
		else if (i * 8 < q.length)
			rest = q.words[i];
	}
	struct verdict v = {.rule = sip_end(&s, rest, q.length)};
	bpf_map_update_elem(&verdicts, &zero, &v, BPF_ANY);
	return 1;
}

// weft_option answers for a TCP header that begins as many bytes into the packet
// as its first byte says: user space compares with a parser of its own. It is
// attached nowhere.
SEC("cgroup_skb/egress")
int weft_option(struct __sk_buff *skb)
{
	struct claim o = {};
	__u32 zero = 0;
	__u8 at;
	if (bpf_skb_load_bytes(skb, 0, &at, 1))
		return 0;
	struct verdict v = {};
	if (!find_option(skb, at, &o)) {
		__builtin_memcpy(&v.rule, o.option.tag, 8);
		v.logged = (__u64)bpf_ntohl(o.option.host) << 32 | bpf_ntohl(o.option.identity);
		v.action = bpf_ntohl(o.seq);
		v.stateless = (__u32)o.option.kind << 24 | (__u32)o.option.length << 16 | bpf_ntohs(o.option.exid);
	}
	bpf_map_update_elem(&verdicts, &zero, &v, BPF_ANY);
	return 1;
}
