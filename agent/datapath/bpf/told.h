// What user space is told as it happens, and by which sockets it answers.
#pragma once

#include "lines.h"

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
// what answers over TCP the beginning is enough. Datagrams that come later than a
// resolver would be waited for are no beginning.
#define HELLO_PIECES 4
#define HELLO_TIME_NS 5000000000ULL
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
	__uint(max_entries, 1 << 20);
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
