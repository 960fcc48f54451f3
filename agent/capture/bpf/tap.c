//go:build ignore

// The tap: a pair of tc programs per line that copy frames into one shared
// ring buffer and count what becomes of each. They read the packet and never
// change it, and always let it pass.
//
// Attached by tcx or clsact. No CO-RE, no kfunc, no GPL-only helper.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Apache-2.0";

// Values that user space sets before it loads the pair for one line.
volatile const __u32 line_slot;
// snaplen is how much of a frame is copied, counted as on the wire; 0: all.
volatile const __u32 snaplen;
// raw_link is 1 where frames begin with the IP header (tun and the like).
volatile const __u32 raw_link;

// TC_ACT_UNSPEC by another name, which Debian 12's headers (6.1) do not have.
#define TCX_NEXT -1

#define MAX_LINES 256
#define MAX_WORKLOADS 1024
#define MAX_PORTS 8192
#define MAX_OWN 4096
// The largest frame: 64 KiB of IP and room for headers. More is cut and flagged.
#define MAX_CAPTURE 65664

// port: one interface as one line sees it.
struct port_key {
	__u32 line;
	__u32 ifindex;
};

#define PORT_VETH 1	     // our end of a workload's veth: tc ingress is its egress
#define PORT_EGRESS_TAPPED 2 // the workload's egress is tapped here by this line

struct port {
	__u32 workload;
	__u32 flags;
};

// Counters of one line on one CPU. seen comes last so that a reader who copies
// upwards never finds a term that seen does not hold yet.
struct counts {
	__u64 filtered_packets, filtered_bytes;
	__u64 sampled_packets, sampled_bytes;
	__u64 deduplicated_packets, deduplicated_bytes;
	__u64 ring_dropped_packets, ring_dropped_bytes;
	__u64 submitted_packets, submitted_bytes;
	__u64 seen_packets, seen_bytes;
};

#define REC_EGRESS 1	// seen from the workload
#define REC_VLAN 2	// the kernel holds a tag beside the frame
#define REC_TRUNCATED 4 // frame larger than MAX_CAPTURE
#define REC_RAW 8	// no Ethernet header

// Header of a record in the ring; the frame's bytes follow.
struct record {
	__u64 boot_ns; // CLOCK_BOOTTIME
	__u32 line;
	__u32 workload;
	__u32 ifindex;
	__u32 len;    // skb->len: without the tag
	__u32 caplen; // bytes that follow
	__u16 gso_size;
	__u16 segs; // frames on the wire, 1 at least
	__u16 vlan_tci;
	__u16 vlan_proto; // host order
	__u8 flags;
	__u8 pad[3];
	__u8 data[];
};

#define RECORD_HEADER 40

// Shared with user space through one mapped page.
struct control {
	__u32 sleeping; // the reader waits for a wake-up
	__u32 pad;
	__u64 journal[15]; // user space's own
};

// The maps. Those below the line are only kept here, for user space: pinned,
// they hold what must outlive the agent.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PORTS);
	__type(key, struct port_key);
	__type(value, struct port);
} ports SEC(".maps");

// own: the agent's own TCP connections, as this host sees them. Addresses are
// IPv6, IPv4 ones mapped (RFC 4291, 2.5.5.2); ports are in network order.
struct own_key {
	__u8 local[16];
	__u8 remote[16];
	__be16 local_port;
	__be16 remote_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_OWN);
	__type(key, struct own_key);
	__type(value, __u8);
} own SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_LINES);
	__type(key, __u32);
	__type(value, struct counts);
} kernel_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} wakeups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

// ---------------------------------------------------------------------------

struct user_counts {
	__u64 words[32];
};

struct line {
	__u32 state;
	__u32 id_len;
	__u8 digest[32];
	char id[344];
};

struct workload {
	__u32 id_len;
	char id[252];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_LINES);
	__type(key, __u32);
	__type(value, struct user_counts);
} user_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_LINES);
	__type(key, __u32);
	__type(value, struct line);
} lines SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, struct workload);
} workloads SEC(".maps");

// weft_filter stands where user space puts the line's pcap filter. Returning
// other than 0 takes the frame.
__attribute__((noinline)) int weft_filter(struct __sk_buff *skb)
{
	int take = 1;
	if (!skb)
		return 0;
	asm volatile("" : "+r"(take));
	return take;
}

// wire_frames is the number of frames the super-frame becomes. The kernel has
// it in gso_segs, except for those a guest or a raw socket handed in.
static __always_inline __u32 wire_frames(struct __sk_buff *skb)
{
	__u32 size = skb->gso_size;
	__u32 segs = skb->gso_segs;
	__u32 off = raw_link ? 0 : ETH_HLEN;
	__u8 first = 0, proto = 0, doff = 0;
	__u32 payload;

	if (!size)
		return 1;
	if (segs)
		return segs;
	if (bpf_skb_load_bytes(skb, off, &first, 1))
		return 1;
	if ((first >> 4) == 4) {
		bpf_skb_load_bytes(skb, off + 9, &proto, 1);
		off += (first & 15) * 4;
	} else {
		bpf_skb_load_bytes(skb, off + 6, &proto, 1);
		off += 40;
	}
	if (proto == IPPROTO_TCP) {
		bpf_skb_load_bytes(skb, off + 12, &doff, 1);
		off += (doff >> 4) * 4;
	} else {
		off += 8;
	}
	if (skb->len <= off)
		return 1;
	payload = skb->len - off;
	segs = (payload + size - 1) / size;
	return segs > 65535 ? 65535 : segs;
}

// tapped_at_source says that this very frame came in through a workload's own
// interface where this line taps its egress: then that side has reported it.
// The interface, not the source address, is the proof: an address can be forged.
static __always_inline int tapped_at_source(struct __sk_buff *skb)
{
	struct port_key key = {.line = line_slot, .ifindex = skb->ingress_ifindex};
	struct port *from;

	if (!key.ifindex || key.ifindex == skb->ifindex)
		return 0;
	from = bpf_map_lookup_elem(&ports, &key);
	return from && (from->flags & PORT_VETH) && (from->flags & PORT_EGRESS_TAPPED);
}

// is_own says that the frame is of a connection of the agent's own. A tap of a
// whole machine leaves those out: each copy it sends would be copied again.
static __always_inline int is_own(struct __sk_buff *skb, int egress)
{
	struct own_key key = {};
	__u8 *src = egress ? key.local : key.remote, *dst = egress ? key.remote : key.local;
	__be16 ports[2];
	__u32 off = raw_link ? 0 : ETH_HLEN;
	__u8 head[20];

	if (bpf_skb_load_bytes(skb, off, head, sizeof(head)))
		return 0;
	if ((head[0] >> 4) == 4) {
		if (head[9] != IPPROTO_TCP || (head[6] & 0x1f) || head[7])
			return 0;
		src[10] = src[11] = dst[10] = dst[11] = 0xff;
		__builtin_memcpy(src + 12, head + 12, 4);
		__builtin_memcpy(dst + 12, head + 16, 4);
		off += (head[0] & 15) * 4;
	} else {
		if ((head[0] >> 4) != 6 || head[6] != IPPROTO_TCP)
			return 0;
		if (bpf_skb_load_bytes(skb, off + 8, src, 16) || bpf_skb_load_bytes(skb, off + 24, dst, 16))
			return 0;
		off += 40;
	}
	if (bpf_skb_load_bytes(skb, off, ports, sizeof(ports)))
		return 0;
	key.local_port = egress ? ports[0] : ports[1];
	key.remote_port = egress ? ports[1] : ports[0];
	return bpf_map_lookup_elem(&own, &key) != 0;
}

// wake_flags: the reader is woken when it sleeps, and for every 64th record in
// case it has fallen behind; else it finds the records by itself.
static __always_inline __u64 wake_flags(void)
{
	__u32 zero = 0;
	struct control *ctl = bpf_map_lookup_elem(&control, &zero);
	__u32 *n = bpf_map_lookup_elem(&wakeups, &zero);

	if (ctl && *(volatile __u32 *)&ctl->sleeping) {
		*(volatile __u32 *)&ctl->sleeping = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	if (n && (++*n & 63) == 0)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

static __always_inline int copy(struct __sk_buff *skb, struct record *rec, const struct record *head,
				__u32 len, __u32 max)
{
	__u64 last = (__u64)len - 1; // so that the verifier knows 1 <= len <= max

	*rec = *head;
	asm volatile("" : "+r"(last));
	if (last >= max)
		goto discard;
	if (bpf_skb_load_bytes(skb, 0, rec->data, last + 1))
		goto discard;
	bpf_ringbuf_submit(rec, wake_flags());
	return 0;
discard:
	bpf_ringbuf_discard(rec, BPF_RB_NO_WAKEUP);
	return -1;
}

// bpf_ringbuf_reserve wants a constant, so records come in sizes.
#define TRY(max)                                                                     \
	if (len <= (max)) {                                                          \
		struct record *rec = bpf_ringbuf_reserve(&ring, RECORD_HEADER + (max), 0); \
		if (!rec)                                                            \
			return -1;                                                   \
		return copy(skb, rec, head, len, (max));                             \
	}

static __always_inline int submit(struct __sk_buff *skb, const struct record *head)
{
	__u32 len = head->caplen;

	TRY(88)
	TRY(216)
	TRY(472)
	TRY(984)
	TRY(1536)
	TRY(3072)
	TRY(9256)
	TRY(20480)
	TRY(40960)
	TRY(MAX_CAPTURE)
	return -1;
}

static __always_inline int tap(struct __sk_buff *skb, int hook_egress)
{
	struct port_key key = {.line = line_slot, .ifindex = skb->ifindex};
	struct port *port = bpf_map_lookup_elem(&ports, &key);
	struct counts *count;
	struct record head = {};
	__u32 slot = line_slot, want;
	int egress;

	if (!port)
		return TCX_NEXT;
	count = bpf_map_lookup_elem(&kernel_counts, &slot);
	if (!count)
		return TCX_NEXT;
	egress = (port->flags & PORT_VETH) ? !hook_egress : hook_egress;
	if (!(port->flags & PORT_VETH) && is_own(skb, egress))
		return TCX_NEXT;

	head.segs = wire_frames(skb);
	head.len = skb->len;
	count->seen_packets += head.segs;
	count->seen_bytes += head.len;
	if (!weft_filter(skb)) {
		count->filtered_packets += head.segs;
		count->filtered_bytes += head.len;
		return TCX_NEXT;
	}
	if (!egress && tapped_at_source(skb)) {
		count->deduplicated_packets += head.segs;
		count->deduplicated_bytes += head.len;
		return TCX_NEXT;
	}

	head.boot_ns = bpf_ktime_get_boot_ns();
	head.line = slot;
	head.workload = port->workload;
	head.ifindex = skb->ifindex;
	head.gso_size = skb->gso_size;
	head.flags = (egress ? REC_EGRESS : 0) | (raw_link ? REC_RAW : 0);
	want = snaplen;
	if (skb->vlan_present) {
		head.flags |= REC_VLAN;
		head.vlan_tci = skb->vlan_tci;
		head.vlan_proto = bpf_ntohs(skb->vlan_proto);
		if (want > 16)
			want -= 4; // the tag is part of what was asked for
	}
	head.caplen = head.len;
	if (want && head.caplen > want)
		head.caplen = want;
	if (head.caplen > MAX_CAPTURE) {
		head.caplen = MAX_CAPTURE;
		head.flags |= REC_TRUNCATED;
	}
	if (submit(skb, &head) == 0) {
		count->submitted_packets += head.segs;
		count->submitted_bytes += head.len;
	} else {
		count->ring_dropped_packets += head.segs;
		count->ring_dropped_bytes += head.len;
	}
	return TCX_NEXT;
}

SEC("tc")
int weft_tap_in(struct __sk_buff *skb)
{
	return tap(skb, 0);
}

SEC("tc")
int weft_tap_out(struct __sk_buff *skb)
{
	return tap(skb, 1);
}
