// The connection table, and what is kept beside it for user space, which visits it.
#pragma once

#include "maps.h"

struct conn_key {
	__u8 local[16], remote[16]; // IPv4 as in address_key
	__be16 local_port, remote_port;
	__u8 protocol;
	__u8 family; // 4 or 6
	__u8 pad[2];
	__u64 netns; // cookie
};

#define CONN_TCP_SYN 1	    // of the first packet's sender
#define CONN_TCP_ANSWERED 2 // the other end has said something
#define CONN_TCP_FIN_SENT 4
#define CONN_TCP_FIN_RECEIVED 8
#define CONN_TCP_RESET 16
#define CONN_TCP_ESTABLISHED 32
#define CONN_CLOSED 64 // the socket is gone
#define CONN_MIDSTREAM 128 // its first packets were not seen

// What told who the peer is: its address, its own socket here, an option of the
// SYN, the guest's port by which its frame came.
#define BY_ADDRESS 0
#define BY_SOCKET 1
#define BY_OPTION 2
#define BY_PORT 3

struct conn {
	__u64 rule;
	__u64 first_ns, last_ns; // CLOCK_BOOTTIME
	__u64 sent_packets, sent_bytes;
	__u64 received_packets, received_bytes;
	__u32 revision;
	__u32 slot;
	__u32 identity, peer_identity;
	__u32 peer_entities;
	__u32 flags; // CONN_…
	__u32 rtt_us;
	__u32 retransmits;
	__u8 direction;
	__u8 action;
	__u8 peer_by; // BY_…
	__u8 stateless;
	__be16 translated_port;
	__be16 policy_port; // network order
	__u8 translated[16];
	__u64 cgroup; // of the socket
	__u8 handed[2]; // pieces handed over as struct hello: of who called, and of the other
	__u8 pad[2];
	__u32 tcp_flags; // all that were seen: sent, and received << 8
	struct process process;
	__u32 peer_exe;
	__u32 peer_uid;
	__u32 peer_flags; // PROC_…
	__u32 peer_host;  // that said so, where peer_by is 2; the guest's slot where it is 3
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct conn_key);
	__type(value, struct conn);
} conns SEC(".maps");

// entries: how many have come, ever, into each of the tables that user space visits.
// Where none has, it looks up those it knows, and leaves empty buckets alone.
struct entries {
	__u64 conns;
	__u64 past;
	__u64 denied;
	__u64 drops;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct entries);
} entries SEC(".maps");

// CAME counts an entry that is in a table now, and is how many came before.
#define CAME(table)                                                                                                    \
	({                                                                                                             \
		__u32 zero_ = 0;                                                                                       \
		struct entries *e_ = bpf_map_lookup_elem(&entries, &zero_);                                            \
		e_ ? __sync_fetch_and_add(&e_->table, 1) : 0;                                                          \
	})

// begun: the latest keys of the connection table that user space has not taken yet,
// each with its number in entries. Those beyond its room are found in the table.
struct begun {
	__u64 number;
	struct conn_key key;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1024);
	__type(value, struct begun);
} begun SEC(".maps");

// alarm_at: when so many have come into the connection table, user space is to be
// told through alarms.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} alarm_at SEC(".maps");

// alarms tells user space that so many have begun.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} alarms SEC(".maps");

// past_conns: lines whose ports have become another connection's before user space
// has read them for the last time.
struct past_key {
	struct conn_key key;
	__u64 first_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct past_key);
	__type(value, struct conn);
} past_conns SEC(".maps");

// denied: connections turned down, the latest of them.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, struct conn_key);
	__type(value, struct conn);
} denied SEC(".maps");

// counts: what a rule has done; rule 0 stands for the defaults.
struct counts {
	__u64 connections, packets, bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct counts);
} counts SEC(".maps");

// visited is the last whole visit of the table by user space: when it began, and
// how long lines stay after their last packet.
struct visited {
	__u64 now_ns; // CLOCK_BOOTTIME; 0: there was none
	__u64 ended_ns, opening_ns, tcp_ns, unanswered_ns, answered_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct visited);
} visited SEC(".maps");

// retired: the packets of allowed connections that have left the table. Packets
// change nothing here.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct counts);
} retired SEC(".maps");
