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
	__u64 rules_full;  // what a rule did, and no room to count it
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

// A table of hashes takes 16 bytes for each entry that it may ever have. Those that
// can be large, and mostly are small, stand in another, in which user space exchanges
// them for larger or smaller ones; the size here is that of none.
static const __u32 only = 0; // place of an array: here, so that it takes no stack

struct identities {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct identity_key);
	__type(value, __u32);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct identities);
} identities SEC(".maps");

static __always_inline __u32 *find_identity(const struct identity_key *k)
{
	void *now = bpf_map_lookup_elem(&identities, &only);
	return now ? bpf_map_lookup_elem(now, k) : 0;
}

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

struct steps {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct step);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct steps);
} steps SEC(".maps");

static __always_inline struct step *find_step(const __u32 *number)
{
	void *now = bpf_map_lookup_elem(&steps, &only);
	return now ? bpf_map_lookup_elem(now, number) : 0;
}

const struct step *step_type __attribute__((unused));
const struct identity_key *identity_key_type __attribute__((unused));

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
