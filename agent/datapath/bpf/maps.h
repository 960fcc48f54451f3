// What the programs and user space share. Every struct is laid out without
// holes; the Go side has the same under the same names.
#pragma once

#define MAX_SUBJECTS 4096
#define MAX_ENTITY_SETS 64 // sets of the six special entities
#define ANCESTORS 8
#define PATH_MAX_LEN 256

// Actions, as numbers.
#define ACT_NONE 0
#define ACT_ALLOW 1
#define ACT_DENY 2
#define ACT_REJECT 3
#define ACT_PASS 4
#define ACT_LOG 5

// Entities: bits of policy.EntitySet, shifted so that host is the first.
#define ENT_HOST 1
#define ENT_SELF 2
#define ENT_DNS 4
#define ENT_METADATA 32

// Direction of a connection's first packet, seen from the subject.
#define DIR_INGRESS 0
#define DIR_EGRESS 1

// control: one page that user space writes, the revision last.
struct control {
	__u32 revision; // of the state that is in force
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

// trouble counts what could not be done as it should; one line per CPU.
struct trouble {
	__u64 table_full;   // packets judged without a line in the connection table
	__u64 malformed;    // headers that do not parse
	__u64 fragments;    // turned down for want of ports
	__u64 no_steps;     // a verdict took more steps than there are
	__u64 paths_full;   // an executable without a number
	__u64 no_subject;   // a socket of no subject
	__u64 no_frame;	    // turned down for want of room to think
	__u64 lookups_lost; // answers of resolvers that nobody has read
	__u64 past_full;    // lines that made way and found no place to wait
	__u64 hellos_lost; // first bytes of connections that nobody has read
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trouble);
} trouble SEC(".maps");

// cgroups: the subject that a cgroup belongs to, by the cgroup's id.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_SUBJECTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} cgroups SEC(".maps");

// slots: what a subject is judged by. A write of user space replaces it whole.
struct slot {
	__u32 identity;
	__u32 tables[2]; // by direction; 0 is no subject
	__u32 flags;	 // SLOT_…
	__u32 book;	 // of addresses
	__u32 pad;
};

#define SLOT_MACHINE_NETNS 1 // its sockets are in the machine's own namespace
#define SLOT_UNNAMED 2	     // nothing of what its connections carry is looked at

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SUBJECTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

// namespaces: whose subject a whole network namespace is, by its cookie.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SUBJECTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} namespaces SEC(".maps");

// address: IPv4 in the first four bytes, the rest zero.
//
// A book is what addresses mean to tables of one time. Where numbers of identities
// change, a new one is written beside the old, and subjects are turned over to it
// together with their tables.
struct address_key {
	__u32 prefixlen; // 40 for book and family, and the address's own
	__u32 book;
	__u8 family;     // 4 or 6
	__u8 address[16];
	__u8 pad[3];
};

struct address {
	__u32 identity;
	__u32 entities; // ENT_…
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address_key);
	__type(value, struct address);
} addresses SEC(".maps");

// tables: one direction of a ruleset. Classes of 0 match nothing.
#define TABLE_IDENTITIES 1
#define TABLE_BLOCKS 2
#define TABLE_NAMES 4
#define TABLE_PROCESSES 8
#define TABLE_REJECTS 16
struct table {
	__u32 any, world, fleet;
	__u32 entity_mask;
	__u32 flags;
	__u32 defaults; // chain
	__u32 entities[MAX_ENTITY_SETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4 * MAX_SUBJECTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

struct identity_key {
	__u32 table;
	__u32 identity;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 22);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct identity_key);
	__type(value, __u32);
} identities SEC(".maps");

struct block_key {
	__u32 prefixlen; // 40 for table and family, and the address's own
	__u32 table;
	__u8 family;
	__u8 address[16];
	__u8 pad[3];
};

struct block {
	__u32 world, managed; // classes
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 21);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct block_key);
	__type(value, struct block);
} blocks SEC(".maps");

// names: the class of an address that a subject has looked up by names.
struct name_key {
	__u32 slot;
	__u8 family;
	__u8 address[16];
	__u8 pad[3];
};

struct name {
	__u32 table; // the class is for this one only
	__u32 class;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct name_key);
	__type(value, struct name);
} names SEC(".maps");

// ports: longest prefix over protocol and port within a class.
struct port_key {
	__u32 prefixlen; // 32 for the class, 8 for the protocol, 0 to 16 for the port
	__u32 class;
	__u8 protocol;
	__u8 port[2]; // network order
	__u8 pad;
};

struct chain {
	__u32 first; // step
	__u32 count;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 22);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct port_key);
	__type(value, struct chain);
} ports SEC(".maps");

// defaults: by chain number, what decides where no rule does.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4 * MAX_SUBJECTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct chain);
} defaults SEC(".maps");

struct step {
	__u64 rule;
	__u64 rank;
	__u32 subject_condition; // 0: none
	__u32 peer_condition;
	__u8 action;
	__u8 tier;
	__u8 stateless;
	__u8 pad[5];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 22);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct step);
} steps SEC(".maps");

// conditions: alternatives on a process, numbered from 0 without a gap.
#define MAX_ALTERNATIVES 64
struct condition_key {
	__u32 condition;
	__u32 alternative;
};

#define COND_EXE 1
#define COND_USER 2
#define COND_CGROUP 4
#define COND_NEVER 8 // names somebody who is not here
struct condition {
	__u32 flags;
	__u32 exe; // number of a path
	__u32 uid;
	__u32 level; // of the cgroup below the root
	__u64 cgroup;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct condition_key);
	__type(value, struct condition);
} conditions SEC(".maps");

// process: who made a socket, or bound or connected it last.
#define PROC_KNOWN 1
#define PROC_OPTION 2 // its SYN carries who calls
struct process {
	__u32 flags;
	__u32 pid;
	__u32 uid;
	__u32 exe; // number of a path, 0 where not known
	__u64 netns; // cookie
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct process);
} processes SEC(".maps");

// owners: who is at a Multipath TCP socket, by its address, while sockets that
// were there before are noted.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct process);
} owners SEC(".maps");

// paths number executables: the components from the last to the first, each
// with a slash after it ("nginx/sbin/usr/"), zeros to the end.
struct path {
	char name[PATH_MAX_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct path);
	__type(value, __u32);
} paths SEC(".maps");

// path_number is the last that was given.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} path_number SEC(".maps");

// known_files saves walking a path at each socket.
struct file_key {
	__u64 dentry, parent, inode, mount;
	__u64 ino;
	__u64 name_hash;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct file_key);
	__type(value, __u32);
} known_files SEC(".maps");

// The connection table.
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

// events tells user space of a packet whose sender is to be told that it was
// rejected.
#define EVENT_HEAD 60
struct event {
	__u64 netns; // cookie
	__u32 length;
	__u8 family;
	__u8 protocol;
	__u8 pad[6];
	__u8 head[EVENT_HEAD]; // the packet from its network header on
};

const struct event *event_type __attribute__((unused)); // keeps its layout in the object

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

// lookups hands user space the answers of the machine's resolvers to subjects.
#define LOOKUP_MAX 1472
struct lookup {
	__u32 slot;
	__u32 length;
	__u8 message[LOOKUP_MAX];
};

const struct lookup *lookup_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 19);
} lookups SEC(".maps");

// hellos hands user space the first bytes that each end of a connection says, to
// tell what it is used for. A caller may begin with a ClientHello of some 2 KiB; of
// what answers over TCP the beginning is enough.
#define HELLO_PIECES 4
#define HELLO_SHORT 448
#define HELLO_MAX 4096
struct hello {
	struct conn_key key;
	__u64 first_ns; // of the line
	__u64 now_ns;
	__u32 seq; // of TCP
	__u16 length;
	__u8 called; // the called end says so
	__u8 pad;
	__u8 bytes[HELLO_MAX];
};

const struct hello *hello_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21);
} hellos SEC(".maps");

// hello_budget bounds what hellos cost user space, whatever comes: so many pieces
// of each CPU in a window of 134 ms.
#define HELLO_BUDGET 1000
#define HELLO_WINDOW 27 // as a power of two of nanoseconds
struct hello_budget {
	__u64 window;
	__u64 spent;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hello_budget);
} hello_budget SEC(".maps");

// answerers are the sockets by which user space tells senders, by cookie: what
// they send is no workload's.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u8);
} answerers SEC(".maps");

// verdicts: what weft_judge has answered.
struct verdict {
	__u64 rule, logged;
	__u32 action, stateless;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct verdict);
} verdicts SEC(".maps");
