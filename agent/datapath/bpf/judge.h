// The verdict on one packet: classify.Table.Judge, in the kernel.
#pragma once

// As many as classify.MaxSteps; user space refuses tables that need more.
#define MAX_STEPS 64
#define DIMENSIONS 5

struct query {
	// What is asked.
	__u32 table, slot;
	__u32 identity; // of the peer
	__u32 entities; // of the peer
	__u8 family, protocol;
	__be16 port;
	__u8 peer[16];
	__u32 exe, uid, known; // the subject's process
	__u32 peer_exe, peer_uid, peer_known;
	__u64 ancestors[ANCESTORS]; // of the subject's cgroup, by level; 0 where there is none
	__u32 pad;
	// What is answered.
	__u32 action;
	__u32 stateless;
	__u32 pad2;
	__u64 rule, logged;
};

struct walk {
	struct chain heads[DIMENSIONS];
	struct step steps[DIMENSIONS]; // the first of each
	union {
		struct port_key port;
		struct identity_key identity;
		struct block_key block;
		struct name_key name;
	} key; // that is looked up; here, for there is no room on the stack
};

// frame is where a verdict is worked out. A program may be interrupted by
// another on its CPU, and that one by a third, so that each takes one of several.
#define FRAMES 4
struct frame {
	__u32 busy;
	__u32 number; // its place in frames
	struct query query;
	struct conn conn;
	struct walk walk;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FRAMES);
	__type(key, __u32);
	__type(value, struct frame);
} frames SEC(".maps");

static __always_inline struct frame *take_frame(void)
{
#pragma unroll
	for (__u32 i = 0; i < FRAMES; i++) {
		__u32 key = i;
		struct frame *f = bpf_map_lookup_elem(&frames, &key);
		if (f && !__sync_lock_test_and_set(&f->busy, 1)) {
			f->number = i;
			return f;
		}
	}
	return 0;
}

static __always_inline void give_frame(struct frame *f)
{
	__sync_lock_test_and_set(&f->busy, 0);
}

static __always_inline void count_trouble(__u64 at)
{
	__u32 zero = 0;
	void *t = bpf_map_lookup_elem(&trouble, &zero);
	if (t)
		(*(__u64 *)(t + at))++;
}
#define TROUBLE(what) count_trouble(__builtin_offsetof(struct trouble, what))

// Loops are calls of bpf_loop: the kernel checks a body once, not once a turn.
struct search {
	struct query *query;
	__u32 condition, peer;
	int holds;
};

static long try_alternative(__u32 i, struct search *s)
{
	struct query *q = s->query;
	struct condition_key key = {s->condition, i};
	struct condition *c = bpf_map_lookup_elem(&conditions, &key);
	if (!c)
		return 1;
	__u32 known = s->peer ? q->peer_known : q->known, exe = s->peer ? q->peer_exe : q->exe, uid = s->peer ? q->peer_uid : q->uid;
	__u32 flags = c->flags, level = c->level;
	if (flags & COND_NEVER)
		return 0;
	if (flags & COND_EXE && (!known || !exe || exe != c->exe))
		return 0;
	if (flags & COND_USER && (!known || uid != c->uid))
		return 0;
	if (flags & COND_CGROUP && (s->peer || level >= ANCESTORS || q->ancestors[level] != c->cgroup))
		return 0;
	s->holds = 1;
	return 1;
}

static __noinline int condition_holds(__u32 condition, struct query *q, __u32 peer)
{
	struct search s = {q, condition, peer, 0};
	bpf_loop(MAX_ALTERNATIVES, try_alternative, &s, 0);
	return s.holds;
}

static __always_inline void load_head(struct walk *w, __u32 i)
{
	if (i >= DIMENSIONS)
		return;
	struct step *s = w->heads[i].count ? find_step(&w->heads[i].first) : 0;
	if (s)
		w->steps[i] = *s;
	else
		w->steps[i].rank = ~0ULL;
}

static __always_inline void load_class(struct walk *w, struct query *q, __u32 i, __u32 class)
{
	w->heads[i].count = 0;
	if (class) {
		struct port_key *key = &w->key.port;
		key->prefixlen = 56;
		key->class = class;
		key->protocol = q->protocol;
		__builtin_memcpy(key->port, &q->port, 2);
		key->pad = 0;
		struct chain *c = bpf_map_lookup_elem(&ports, key);
		if (c)
			w->heads[i] = *c;
	}
	load_head(w, i);
}

static __always_inline void load_classes(struct walk *w, struct query *q, struct table *t)
{
	load_class(w, q, 0, t->any);
	__u32 class = t->world;
	if (q->identity) {
		class = t->fleet;
		if (t->flags & TABLE_IDENTITIES) {
			w->key.identity.table = q->table;
			w->key.identity.identity = q->identity;
			__u32 *c = find_identity(&w->key.identity);
			if (c)
				class = *c;
		}
	}
	load_class(w, q, 1, class);
	class = 0;
	if (t->flags & TABLE_BLOCKS) {
		struct block_key *key = &w->key.block;
		key->prefixlen = q->family == 4 ? 40 + 32 : 40 + 128;
		key->table = q->table;
		key->family = q->family;
		__builtin_memcpy(key->address, q->peer, 16);
		__builtin_memset(key->pad, 0, sizeof(key->pad));
		struct block *b = bpf_map_lookup_elem(&blocks, key);
		if (b)
			class = q->identity ? b->managed : b->world;
	}
	load_class(w, q, 2, class);
	load_class(w, q, 3, t->entities[q->entities & t->entity_mask & (MAX_ENTITY_SETS - 1)]);
	class = 0;
	if (t->flags & TABLE_NAMES) {
		struct name_key *key = &w->key.name;
		key->slot = q->slot;
		key->family = q->family;
		__builtin_memcpy(key->address, q->peer, 16);
		__builtin_memset(key->pad, 0, sizeof(key->pad));
		struct name *n = bpf_map_lookup_elem(&names, key);
		if (n && n->table == q->table)
			class = n->class;
	}
	load_class(w, q, 4, class);
}

struct progress {
	struct walk *walk;
	struct query *query;
	__u32 passed; // tier that a Pass has ended
	__u32 end;    // 1: a rule has decided, 2: no rule is left
};

static long take_step(__u32 n, struct progress *at)
{
	struct walk *w = at->walk;
	struct query *q = at->query;
	__u32 first = 0;
	__u64 rank = w->steps[0].rank;
#pragma unroll
	for (__u32 i = 1; i < DIMENSIONS; i++) {
		if (w->steps[i].rank < rank) {
			rank = w->steps[i].rank;
			first = i;
		}
	}
	if (rank == ~0ULL) {
		at->end = 2;
		return 1;
	}
	if (first >= DIMENSIONS)
		return 1;
	struct step *s = &w->steps[first];
	__u64 rule = s->rule;
	__u32 action = s->action, tier = s->tier, stateless = s->stateless;
	__u32 subject = s->subject_condition, peer = s->peer_condition;
	w->heads[first].first++;
	w->heads[first].count--;
	load_head(w, first);
	if (tier == at->passed || (subject && !condition_holds(subject, q, 0)) || (peer && !condition_holds(peer, q, 1)))
		return 0;
	if (action == ACT_LOG) {
		if (!q->logged)
			q->logged = rule;
		return 0;
	}
	if (action == ACT_PASS) {
		at->passed = tier;
		return 0;
	}
	q->action = action;
	q->rule = rule;
	q->stateless = stateless;
	at->end = 1;
	return 1;
}

struct fallback {
	struct query *query;
	__u32 first, count;
};

static long try_default(__u32 n, struct fallback *f)
{
	struct query *q = f->query;
	__u32 number = f->first + n;
	struct step *s = n < f->count ? find_step(&number) : 0;
	if (!s)
		return 1;
	__u32 subject = s->subject_condition, action = s->action;
	if (subject && !condition_holds(subject, q, 0))
		return 0;
	q->action = action;
	return 1;
}

// judge answers the question of a frame. Where it cannot, it denies. It is told the
// frame's number: to Linux 6.1, what a function that is checked by itself is handed by
// address can be no key of a map.
__noinline int judge(__u32 number)
{
	struct frame *f = bpf_map_lookup_elem(&frames, &number);
	if (!f)
		return 0;
	struct query *q = &f->query;
	struct walk *w = &f->walk;
	q->action = ACT_DENY;
	q->stateless = 0;
	q->rule = q->logged = 0;
	struct table *t = bpf_map_lookup_elem(&tables, &q->table);
	if (!t)
		return 0;
	load_classes(w, q, t);
	__u32 end;
	{ // for its part of the stack is used again below
		struct progress at = {w, q, ~0U, 0};
		bpf_loop(MAX_STEPS, take_step, &at, 0);
		end = at.end;
	}
	if (end == 1)
		return 0;
	if (end != 2) {
		TROUBLE(no_steps);
		return 0;
	}
	struct chain *c = bpf_map_lookup_elem(&defaults, &t->defaults);
	if (!c)
		return 0;
	struct fallback last = {q, c->first, c->count};
	bpf_loop(MAX_STEPS, try_default, &last, 0);
	return 0;
}
