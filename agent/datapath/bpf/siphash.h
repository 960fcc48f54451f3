// SipHash-2-4 as its paper specifies (J.-P. Aumasson, D. J. Bernstein, "SipHash:
// a fast short-input PRF", INDOCRYPT 2012, section 2). There is no library for
// programs in the kernel; siphash_test.go holds this to the paper's vectors and
// to a library.
#pragma once

struct sip {
	__u64 v0, v1, v2, v3;
};

// little reads a word of the paper, which is little-endian.
static __always_inline __u64 little(__u64 word)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	return __builtin_bswap64(word);
#else
	return word;
#endif
}

static __always_inline __u64 turn(__u64 x, __u32 by) { return x << by | x >> (64 - by); }

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v2 += s->v3;
	s->v1 = turn(s->v1, 13) ^ s->v0;
	s->v3 = turn(s->v3, 16) ^ s->v2;
	s->v0 = turn(s->v0, 32);
	s->v2 += s->v1;
	s->v0 += s->v3;
	s->v1 = turn(s->v1, 17) ^ s->v2;
	s->v3 = turn(s->v3, 21) ^ s->v0;
	s->v2 = turn(s->v2, 32);
}

// sip_begin takes the key as its bytes lie in memory.
static __always_inline void sip_begin(struct sip *s, const __u64 *key)
{
	__u64 k0 = little(key[0]), k1 = little(key[1]);
	s->v0 = k0 ^ 0x736f6d6570736575ULL;
	s->v1 = k1 ^ 0x646f72616e646f6dULL;
	s->v2 = k0 ^ 0x6c7967656e657261ULL;
	s->v3 = k1 ^ 0x7465646279746573ULL;
}

// sip_word takes eight bytes as they lie in memory.
static __always_inline void sip_word(struct sip *s, __u64 bytes)
{
	__u64 m = little(bytes);
	s->v3 ^= m;
	sip_round(s);
	sip_round(s);
	s->v0 ^= m;
}

// sip_end takes the rest, less than eight bytes with zeros after them, and how
// many bytes there were in all. What it returns is to lie in memory as it is.
static __always_inline __u64 sip_end(struct sip *s, __u64 rest, __u32 length)
{
	sip_word(s, little(little(rest) | (__u64)length << 56));
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return little(s->v0 ^ s->v1 ^ s->v2 ^ s->v3);
}
