// What a guest's port is, and a frame at one.
#pragma once

// Lines of guests are apart from those of sockets: a guest that forwards sees
// connections of which another end is here too.
#define GUEST_LINE (1ULL << 63) // in place of the namespace's cookie, with the slot

// guests: whose port an interface is, by its number.
#define PORT_FORWARDS 1 // sends what others have sent: a router, a firewall
#define PORT_STATED4 2	// its IPv4 addresses are stated: it has these and no others
#define PORT_STATED6 4
#define PORT_AGENT 8	// a machine of the fleet itself, which says its own addresses
#define PORT_OBSERVED 16 // nothing is turned down but by a rule
#define PORT_METERED 32 // nothing is turned down at all
struct guest_port {
	__u32 slot;
	__u32 flags; // PORT_…
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SUBJECTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct guest_port);
} guests SEC(".maps");

// homes: where an address is at home: at the guest of this slot; under slot 0, at
// some workload of this machine.
struct home_key {
	__u8 address[16];
	__u32 slot;
	__u8 family;
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 17);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct home_key);
	__type(value, __u8);
} homes SEC(".maps");

// guest_trouble is as trouble, for what only ports have.
struct guest_trouble {
	__u64 borrowed; // sent from, or claiming, an address that is another's
	__u64 strange;	// neither IP nor ARP
	__u64 routers;	// neighbour discovery's messages of routers
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct guest_trouble);
} guest_trouble SEC(".maps");

static __always_inline void count_guest_trouble(__u64 at)
{
	__u32 zero = 0;
	void *t = bpf_map_lookup_elem(&guest_trouble, &zero);
	if (t)
		(*(__u64 *)(t + at))++;
}

// guest_events tells user space of a frame whose sender is to be told that it was
// rejected.
struct guest_event {
	__u32 port;   // whose guest has said no, or was told no
	__u32 from;   // the interface by which the frame had come to this machine, 0 for its own
	__u32 length; // from the network header on
	__u16 vlan;   // the tag with bit 12 set, 0 for none
	__u8 egress;
	__u8 pad;
	__u8 macs[12]; // receiver's, sender's
	__u8 head[EVENT_HEAD];
};

const struct guest_event *guest_event_type __attribute__((unused)); // keeps its layout in the object

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} guest_events SEC(".maps");

// visit is one frame at a port. It is taken and given back, as struct frame is,
// and for the same reason.
struct visit {
	struct packet packet;
	__u32 busy;
	struct conn_key key;
	__u32 slot, flags;
	__u32 egress;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FRAMES);
	__type(key, __u32);
	__type(value, struct visit);
} visits SEC(".maps");

static __always_inline struct visit *take_visit(void)
{
#pragma unroll
	for (__u32 i = 0; i < FRAMES; i++) {
		__u32 key = i;
		struct visit *v = bpf_map_lookup_elem(&visits, &key);
		if (v && !__sync_lock_test_and_set(&v->busy, 1))
			return v;
	}
	return 0;
}
