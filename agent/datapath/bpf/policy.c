//go:build ignore

// Policy at a workload's own edge: every socket below the cgroup these programs
// are attached to is judged by the tables of the subject it belongs to.
//
// CO-RE is used to read a process's executable, nothing else; no kfunc.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// bpf_probe_read_kernel may be called under this licence by programs that
// declare themselves so; the sources are under the project's own.
char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define IPPROTO_MPTCP_NUMBER 262
#define IPPROTO_MPTCP_LOW (IPPROTO_MPTCP_NUMBER & 255) // as a byte; no protocol has that number
#define ECONNREFUSED_NUMBER 111

// netns_helper is 1 where bpf_get_netns_cookie answers for packets (6.15).
volatile const __u32 netns_helper;
// mptcp is 1 where the kernel has Multipath TCP (RFC 8684).
volatile const __u32 mptcp;

// The kernel lets context fields be read word by word only; volatile keeps the
// compiler from joining reads.
#define READ_WORDS(to, from)                                                                                           \
	do {                                                                                                           \
		__u32 words[4];                                                                                        \
		words[0] = *(volatile __u32 *)&(from)[0];                                                              \
		words[1] = *(volatile __u32 *)&(from)[1];                                                              \
		words[2] = *(volatile __u32 *)&(from)[2];                                                              \
		words[3] = *(volatile __u32 *)&(from)[3];                                                              \
		__builtin_memcpy(to, words, 16);                                                                       \
	} while (0)

#include "told.h"
#include "packet.h"
#include "judge.h"
#include "process.h"
#include "table.h"
#include "siphash.h"
#include "option.h"
#include "conn.h"

static __always_inline __u64 netns_of(struct __sk_buff *skb, const struct process *p)
{
	if (netns_helper)
		return bpf_get_netns_cookie(skb);
	return p ? p->netns : 0;
}

// name_connection fills the key. A connected TCP socket knows its own addresses,
// which no NAT on this machine changes from one direction to the other.
static __always_inline void name_connection(struct conn_key *k, const struct packet *p, struct bpf_sock *sk, int egress)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->family = p->family;
	k->protocol = p->protocol;
	if (p->protocol == IPPROTO_TCP && sk && sk->type == SOCK_STREAM_TYPE && sk->state != TCP_LISTEN && sk->dst_port) {
		k->local_port = bpf_htons((__u16)sk->src_port);
		k->remote_port = sk->dst_port;
		if (p->family == 4) {
			__u32 local = sk->src_ip4, remote = sk->dst_ip4;
			__builtin_memcpy(k->local, &local, 4);
			__builtin_memcpy(k->remote, &remote, 4);
		} else {
			READ_WORDS(k->local, sk->src_ip6);
			READ_WORDS(k->remote, sk->dst_ip6);
		}
		return;
	}
	__builtin_memcpy(k->local, egress ? p->source : p->destination, 16);
	__builtin_memcpy(k->remote, egress ? p->destination : p->source, 16);
	k->local_port = egress ? p->source_port : p->destination_port;
	k->remote_port = egress ? p->destination_port : p->source_port;
}

static __always_inline int judge_first(struct frame *f, struct __sk_buff *skb, struct packet *p, struct conn_key *k, int egress)
{
	__u32 zero = 0;
	struct control *now = bpf_map_lookup_elem(&control, &zero);
	if (!now || !p || !k)
		return 0;
	struct query *q = &f->query;
	struct conn *c = &f->conn;
	__builtin_memset(c, 0, sizeof(*c));
	// Before anything that a new state replaces: a verdict of the old state must
	// not pass for one of the new.
	c->revision = *(volatile __u32 *)&now->revision;
	c->slot = subject_of_packet(skb, q, k->netns);
	c->cgroup = bpf_skb_cgroup_id(skb);
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : 0;
	struct process *made = sk ? bpf_sk_storage_get(&processes, sk, 0, 0) : 0;
	if (egress && !made && is_icmp_error(p))
		return 1; // the kernel's own word about a packet, not a workload's
	struct slot *own = bpf_map_lookup_elem(&slots, &c->slot);
	if (!own) {
		TROUBLE(no_subject);
		return 1;
	}
	if (p->no_ports)
		TROUBLE(fragments);
	c->identity = own->identity;
	c->first_ns = bpf_ktime_get_boot_ns();
	int stream = sk && sk->type == SOCK_STREAM_TYPE;
	if (made)
		c->process = *made;
	if (!egress && p->protocol == IPPROTO_TCP && p->tcp_flags & TCP_RST) {
		// The word to a sender of this machine that its call was rejected.
		struct conn *told = bpf_map_lookup_elem(&denied, k);
		if (told && told->action == ACT_REJECT)
			return 1;
	}
	int begins = p->protocol != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	c->direction = egress ? DIR_EGRESS : DIR_INGRESS;
	if (!begins) {
		// The middle of a connection: whoever listens was called.
		c->flags |= CONN_MIDSTREAM;
		c->direction = DIR_INGRESS;
		if (stream && sk->state != TCP_LISTEN) {
			struct bpf_sock *listener = find_socket(skb, k, 0, 1);
			if (listener)
				bpf_sk_release(listener);
			else
				c->direction = DIR_EGRESS;
		}
	}
	if (egress && c->direction == DIR_EGRESS && !same_address(p->destination, k->remote)) {
		// Judged by where it goes; the line keeps the socket's own addresses.
		__builtin_memcpy(c->translated, p->destination, 16);
		c->translated_port = p->destination_port;
	}
	c->policy_port = port_toward(k, p, c->direction);
	if (c->translated_port)
		c->policy_port = c->translated_port;
	know_peer(skb, k, own, c);
	if (!egress && begins && p->protocol == IPPROTO_TCP && !c->peer_by)
		know_option(skb, p, k, c);
	ask(f, k, c, own->tables[c->direction & 1]);
	if (!begins && (c->action != ACT_ALLOW || c->stateless)) {
		// No connection that is tracked: the packet as it is, by stateless rules.
		__u64 rule = c->rule;
		__u8 action = c->action, stateless = c->stateless, direction = c->direction;
		__be16 port = c->policy_port;
		c->direction = egress ? DIR_EGRESS : DIR_INGRESS;
		c->policy_port = port_toward(k, p, c->direction);
		ask(f, k, c, own->tables[c->direction & 1]);
		if (c->action != ACT_ALLOW || !c->stateless) {
			c->rule = rule;
			c->action = action;
			c->stateless = stateless;
			c->direction = direction;
			c->policy_port = port;
		}
	}
	if (c->action != ACT_ALLOW) {
		turned_down(k, c, p, egress);
		if (c->action == ACT_REJECT) // after it is known, for the word passes here too
			tell_sender(skb, k, p);
		return 0;
	}
	count_rule(c->rule, begins, 0, 0);
	if (c->stateless) {
		count_rule(c->rule, 0, p->packets, p->bytes);
		return 1;
	}
	if (is_hello(c, egress))
		hand_hello(skb, k, c, p, egress);
	keep_line(k, c, p, egress);
	return 1;
}

// first_packet judges a packet of no connection in the table. It returns 1 to
// let it pass.
static __noinline int first_packet(struct __sk_buff *skb, struct packet *p, struct conn_key *k, int egress)
{
	if (egress) {
		__u64 cookie = bpf_get_socket_cookie(skb);
		if (bpf_map_lookup_elem(&answerers, &cookie))
			return 1;
	}
	struct frame *f = take_frame();
	if (!f) {
		TROUBLE(no_frame);
		return 0;
	}
	int pass = judge_first(f, skb, p, k, egress);
	give_frame(f);
	return pass;
}

// again judges a connection whose state was another. It returns 0 where it cannot.
static __noinline int again(struct __sk_buff *skb, struct conn_key *k, __u32 revision)
{
	struct conn *c = bpf_map_lookup_elem(&conns, k);
	if (!c)
		return 0;
	struct frame *f = take_frame();
	if (!f) {
		TROUBLE(no_frame);
		return 0;
	}
	struct query *q = &f->query;
	__u32 number = subject_of_packet(skb, q, k->netns);
	struct slot *own = bpf_map_lookup_elem(&slots, &number);
	if (!own) {
		c->action = ACT_ALLOW;
		c->rule = 0;
		c->revision = revision;
		give_frame(f);
		return 1;
	}
	// Worked out aside: another CPU may be at the same line.
	struct conn *x = &f->conn;
	*x = *c;
	x->slot = number;
	x->identity = own->identity;
	recheck_option(x);
	if (!(x->process.flags & PROC_KNOWN)) {
		// Taken over from another driver, or older than the programs and spoke
		// before it was noted.
		struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : 0;
		struct process *made = sk ? bpf_sk_storage_get(&processes, sk, 0, 0) : 0;
		if (made)
			c->process = x->process = *made;
	}
	if (x->peer_by != BY_OPTION) {
		// Numbers of identities may all be others. Where the peer was a socket that
		// is gone now, it stays what it was.
		int socket = x->peer_by == BY_SOCKET;
		x->peer_by = 0;
		know_peer(skb, k, own, x);
		if (socket && !x->peer_by) {
			x->peer_identity = c->peer_identity;
			x->peer_entities = c->peer_entities;
			x->peer_by = BY_SOCKET;
		}
	}
	ask(f, k, x, own->tables[x->direction & 1]);
	take_over(c, x, revision);
	give_frame(f);
	return 1;
}

static __always_inline int handle(struct __sk_buff *skb, int egress)
{
	__u32 zero = 0;
	struct packet p;
	struct conn_key k;
	if (read_packet(skb, &p)) {
		TROUBLE(malformed);
		return 0;
	}
	weigh(skb, &p);
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : 0;
	name_connection(&k, &p, sk, egress);
	struct process *made = !netns_helper && sk ? bpf_sk_storage_get(&processes, sk, 0, 0) : 0;
	k.netns = netns_of(skb, made);
	struct conn *c = bpf_map_lookup_elem(&conns, &k);
	if (!c)
		return first_packet(skb, &p, &k, egress);
	if (p.protocol == IPPROTO_TCP && (p.tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
	    (c->flags & (CONN_CLOSED | CONN_TCP_RESET | CONN_TCP_FIN_SENT | CONN_TCP_FIN_RECEIVED) || egress != (c->direction == DIR_EGRESS))) {
		// The same ports for another connection, or a call against the one that the
		// line says there is: who may open raw sockets can make such lines.
		make_way(&k, c);
		return first_packet(skb, &p, &k, egress);
	}
	struct control *now = bpf_map_lookup_elem(&control, &zero);
	__u32 revision = now ? *(volatile __u32 *)&now->revision : 0;
	if (c->revision != revision && !again(skb, &k, revision))
		return 0;
	if (c->action != ACT_ALLOW) {
		count_rule(c->rule, 0, p.packets, p.bytes);
		return 0;
	}
	count_packet(c, &p, egress);
	if (is_hello(c, egress))
		hand_hello(skb, &k, c, &p, egress);
	if (!egress && p.protocol == IPPROTO_UDP && c->direction == DIR_EGRESS && c->policy_port == bpf_htons(53) && c->peer_entities & ENT_DNS)
		hand_over_lookup(skb, c, &p);
	return 1;
}

SEC("cgroup_skb/egress")
int weft_egress(struct __sk_buff *skb) { return handle(skb, 1); }

SEC("cgroup_skb/ingress")
int weft_ingress(struct __sk_buff *skb) { return handle(skb, 0); }

// note_process writes down who is at a socket.
static __always_inline void note_process(struct bpf_sock *sk, __u64 netns)
{
	struct process *p = bpf_sk_storage_get(&processes, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!p)
		return;
	read_current(p);
	p->netns = netns;
}

// current_subject is the subject of the process that runs.
static __always_inline __u32 current_subject(struct query *q)
{
	__u64 id = bpf_get_current_cgroup_id();
	__u32 *found = bpf_map_lookup_elem(&cgroups, &id), slot = found ? *found : 0;
	int have = found != 0;
#pragma unroll
	for (int level = ANCESTORS - 1; level >= 0; level--) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		q->ancestors[level] = id;
		if (!id || have)
			continue;
		found = bpf_map_lookup_elem(&cgroups, &id);
		if (found) {
			slot = *found;
			have = 1;
		}
	}
	return slot;
}

// is_rejected says whether a call to k is to be refused at once. What is denied
// without a word is left to the packet.
static __noinline int is_rejected(struct bpf_sock_addr *ctx, struct conn_key *k)
{
	struct frame *f = take_frame();
	if (!f || !k)
		return 0;
	struct conn *c = &f->conn;
	int rejected = 0;
	__builtin_memset(c, 0, sizeof(*c));
	c->slot = current_subject(&f->query);
	struct slot *own = bpf_map_lookup_elem(&slots, &c->slot);
	if (!own)
		goto out;
	__u32 number = own->tables[DIR_EGRESS];
	struct table *t = bpf_map_lookup_elem(&tables, &number);
	if (!t || !(t->flags & TABLE_REJECTS))
		goto out;
	c->identity = own->identity;
	c->first_ns = c->last_ns = bpf_ktime_get_boot_ns();
	read_current(&c->process);
	c->direction = DIR_EGRESS;
	c->policy_port = k->remote_port;
	know_address(k, own, c);
	// Within a namespace the peer is known by its socket, which this hook may not
	// look up: that is left to the packet too.
	if (is_loopback(k->remote, k->family) || (own->flags & SLOT_MACHINE_NETNS && c->peer_entities & ENT_HOST))
		goto out;
	ask(f, k, c, number);
	if (c->action == ACT_REJECT) {
		rejected = 1;
		count_rule(c->rule, 1, 1, 0);
		c->sent_packets = 1;
		turn_down(k, c);
	}
out:
	give_frame(f);
	return rejected;
}

// call looks at a call that a process makes: connect, or a datagram to somewhere.
static __always_inline int call(struct bpf_sock_addr *ctx, int family, int connects)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	struct conn_key k = {.protocol = ctx->protocol, .family = family, .netns = bpf_get_netns_cookie(ctx)};
	note_process(sk, k.netns);
	k.remote_port = (__be16)ctx->user_port;
	if (family == 4) {
		__u32 a = *(volatile __u32 *)&ctx->user_ip4;
		__builtin_memcpy(k.remote, &a, 4);
	} else {
		__u32 a[4];
		a[0] = *(volatile __u32 *)&ctx->user_ip6[0];
		a[1] = *(volatile __u32 *)&ctx->user_ip6[1];
		a[2] = *(volatile __u32 *)&ctx->user_ip6[2];
		a[3] = *(volatile __u32 *)&ctx->user_ip6[3];
		if (!a[0] && !a[1] && a[2] == bpf_htonl(0xffff)) { // an IPv4 address in IPv6's clothes
			k.family = 4;
			__builtin_memcpy(k.remote, &a[3], 4);
		} else {
			__builtin_memcpy(k.remote, a, 16);
		}
	}
	if (k.protocol != IPPROTO_TCP && k.protocol != IPPROTO_UDP && k.protocol != IPPROTO_MPTCP_LOW)
		return 1;
	if (k.protocol == IPPROTO_MPTCP_LOW)
		k.protocol = IPPROTO_TCP;
	// A datagram of a socket that is not connected may be an answer; its own
	// kernel refuses it where it is not allowed.
	if (!connects || !is_rejected(ctx, &k))
		return 1;
	bpf_set_retval(-ECONNREFUSED_NUMBER);
	return 0;
}

SEC("cgroup/connect4")
int weft_connect4(struct bpf_sock_addr *ctx) { return call(ctx, 4, 1); }

SEC("cgroup/connect6")
int weft_connect6(struct bpf_sock_addr *ctx) { return call(ctx, 6, 1); }

SEC("cgroup/sendmsg4")
int weft_sendmsg4(struct bpf_sock_addr *ctx) { return call(ctx, 4, 0); }

SEC("cgroup/sendmsg6")
int weft_sendmsg6(struct bpf_sock_addr *ctx) { return call(ctx, 6, 0); }

#define NOTE_SOCK(name, section)                                                                                       \
	SEC(section)                                                                                                   \
	int name(struct bpf_sock *sk)                                                                                  \
	{                                                                                                              \
		note_process(sk, bpf_get_netns_cookie(sk));                                                            \
		return 1;                                                                                              \
	}

NOTE_SOCK(weft_create, "cgroup/sock_create")
NOTE_SOCK(weft_bind4, "cgroup/post_bind4")
NOTE_SOCK(weft_bind6, "cgroup/post_bind6")

// weft_sockets notes who is at the sockets that were there before the programs.
SEC("iter/task_file")
int weft_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	if (!task || !file)
		return 0;
	struct socket *socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	struct sock *sk = socket->sk;
	if (!sk)
		return 0;
	struct process *p = bpf_sk_storage_get(&processes, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!p)
		return 0;
	if (!(p->flags & PROC_KNOWN)) {
		p->pid = task->tgid;
		p->uid = BPF_CORE_READ(task, cred, uid.val);
		p->exe = exe_of(task);
		p->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
		BPF_CORE_READ_STR_INTO(&p->comm, task, comm);
		p->flags = PROC_KNOWN;
	}
	if (mptcp && sk->sk_protocol == IPPROTO_MPTCP_NUMBER) {
		__u64 outer = (__u64)sk;
		bpf_map_update_elem(&owners, &outer, p, BPF_ANY);
	}
	return 0;
}

// weft_subflows does the same for the TCP sockets inside Multipath TCP ones,
// which no file names; weft_sockets has gone before.
SEC("iter/tcp")
int weft_subflows(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	if (!sk || !mptcp)
		return 0;
	// Of a socket that is none of these, this is not the address of one.
	struct mptcp_subflow_context *inner = BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_ulp_data);
	__u64 outer = (__u64)BPF_CORE_READ(inner, conn);
	struct process *owner = outer ? bpf_map_lookup_elem(&owners, &outer) : 0;
	if (!owner)
		return 0;
	struct process *p = bpf_sk_storage_get(&processes, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (p && !(p->flags & PROC_KNOWN))
		*p = *owner;
	return 0;
}

// ended says whether a line has had its time, as the type keep of user space does.
static __always_inline int ended(const struct conn_key *k, const struct conn *c, const struct visited *v)
{
	__u64 last = c->last_ns, idle = v->now_ns > last ? v->now_ns - last : 0;
	__u32 flags = c->flags, both = CONN_TCP_FIN_SENT | CONN_TCP_FIN_RECEIVED;
	if (k->protocol != IPPROTO_TCP)
		return idle > (flags & CONN_TCP_ANSWERED ? v->answered_ns : v->unanswered_ns);
	if (flags & (CONN_CLOSED | CONN_TCP_RESET) || (flags & both) == both)
		return idle > v->ended_ns;
	return idle > (flags & CONN_TCP_ESTABLISHED ? v->tcp_ns : v->opening_ns);
}

// retire keeps what an allowed connection had when it left the table.
static __always_inline void retire(__u64 rule, __u64 packets, __u64 bytes)
{
	struct counts *sum = bpf_map_lookup_elem(&retired, &rule);
	if (!sum) {
		struct counts none = {};
		bpf_map_update_elem(&retired, &rule, &none, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&retired, &rule);
	}
	if (!sum) {
		TROUBLE(rules_full);
		return;
	}
	__sync_fetch_and_add(&sum->packets, packets);
	__sync_fetch_and_add(&sum->bytes, bytes);
}

// weft_forget takes those lines out that user space has visited as ended, for one
// that was ended when the visit began was there, and has had no packet since.
SEC("iter/bpf_map_elem")
int weft_forget(struct bpf_iter__bpf_map_elem *ctx)
{
	const struct conn_key *key = ctx->key;
	const struct conn *c = ctx->value;
	__u32 zero = 0;
	const struct visited *v = bpf_map_lookup_elem(&visited, &zero);
	if (!key || !c || !v || !v->now_ns)
		return 0;
	struct conn_key k = *key;
	if (!ended(&k, c, v))
		return 0;
	__u64 rule = c->rule, packets = c->sent_packets + c->received_packets, bytes = c->sent_bytes + c->received_bytes;
	int allowed = c->action == ACT_ALLOW;
	if (!bpf_map_delete_elem(&conns, &k) && allowed)
		retire(rule, packets, bytes);
	return 0;
}

// weft_tcp keeps what the kernel knows of a TCP connection in its line.
SEC("sockops")
int weft_tcp(struct bpf_sock_ops *ops)
{
	__u32 op = ops->op;
	if (op == BPF_SOCK_OPS_HDR_OPT_LEN_CB)
		return reserve_option(ops);
	if (op == BPF_SOCK_OPS_WRITE_HDR_OPT_CB)
		return write_option(ops);
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB || op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB || op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG);
		if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
			offer_option(ops);
			return 1;
		}
		end_option(ops);
	} else if (op != BPF_SOCK_OPS_STATE_CB && op != BPF_SOCK_OPS_RETRANS_CB) {
		return 1;
	}
	struct conn_key k = {.protocol = IPPROTO_TCP, .family = 4, .netns = bpf_get_netns_cookie(ops)};
	k.local_port = bpf_htons((__u16)ops->local_port);
	k.remote_port = (__be16)(ops->remote_port >> 16);
	__u32 local = ops->local_ip4, remote = ops->remote_ip4;
	__builtin_memcpy(k.local, &local, 4);
	__builtin_memcpy(k.remote, &remote, 4);
	struct conn *c = ops->family == 2 || local ? bpf_map_lookup_elem(&conns, &k) : 0;
	if (!c && ops->family == 10) {
		READ_WORDS(k.local, ops->local_ip6);
		READ_WORDS(k.remote, ops->remote_ip6);
		k.family = 6;
		c = bpf_map_lookup_elem(&conns, &k);
	}
	if (!c)
		return 1;
	c->rtt_us = ops->srtt_us >> 3;
	c->retransmits = ops->total_retrans;
	if (op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == TCP_CLOSE_STATE) {
		c->last_ns = bpf_ktime_get_boot_ns(); // a line stays for a while from now on, see weft_forget
		__sync_fetch_and_or(&c->flags, CONN_CLOSED);
	} else if (op != BPF_SOCK_OPS_STATE_CB && op != BPF_SOCK_OPS_RETRANS_CB)
		__sync_fetch_and_or(&c->flags, CONN_TCP_ESTABLISHED);
	return 1;
}

// weft_judge answers the question in the packet's bytes: user space compares
// with the reference. It is attached nowhere.
SEC("cgroup_skb/egress")
int weft_judge(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct frame *f = bpf_map_lookup_elem(&frames, &zero);
	if (!f || bpf_skb_load_bytes(skb, 0, &f->query, sizeof(f->query)))
		return 0;
	judge(zero);
	struct verdict v = {f->query.rule, f->query.logged, f->query.action, f->query.stateless};
	bpf_map_update_elem(&verdicts, &zero, &v, BPF_ANY);
	return 1;
}
