/* Random words with a key: Philox4x32-10 (Salmon et al., SC 2011), the same bits on every machine. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define LANES64 1
#endif
#ifdef __GNUC__
typedef uint16_t __attribute__((may_alias)) Half;                    /* half of a word, seen where the word lies    */
#else
typedef uint16_t Half;
#endif

static const uint32_t MULTIPLY[2] = {0xD2511F53u, 0xCD9E8D57u}, WEYL[2] = {0x9E3779B9u, 0xBB67AE85u};
enum { ROUNDS = 10, GROUP = 32 };                                    /* counters that are worked on at once          */
typedef struct { uint32_t k0, k1; uint64_t stream; } Draws;          /* a key, and the upper half of the counters    */

/* Four words for each of the counters first .. first + GROUP, a counter being (number, stream), 64 bits each. */
typedef void Philox(uint32_t *restrict out, uint64_t first, Draws d);

static void philox_plain(uint32_t *restrict out, uint64_t first, Draws draws) {
    uint32_t a[GROUP], b[GROUP], c[GROUP], d[GROUP], k0 = draws.k0, k1 = draws.k1;
    for (int i = 0; i < GROUP; i++) {
        a[i] = (uint32_t)(first + (uint64_t)i);
        b[i] = (uint32_t)((first + (uint64_t)i) >> 32);
        c[i] = (uint32_t)draws.stream;
        d[i] = (uint32_t)(draws.stream >> 32);
    }
    for (int round = 0; round < ROUNDS; round++, k0 += WEYL[0], k1 += WEYL[1])
        for (int i = 0; i < GROUP; i++) {
            uint64_t p = (uint64_t)a[i] * MULTIPLY[0], q = (uint64_t)c[i] * MULTIPLY[1];
            a[i] = (uint32_t)(q >> 32) ^ b[i] ^ k0;
            c[i] = (uint32_t)(p >> 32) ^ d[i] ^ k1;
            b[i] = (uint32_t)q;
            d[i] = (uint32_t)p;
        }
    for (int i = 0; i < GROUP; i++) { out[4 * i] = a[i]; out[4 * i + 1] = b[i]; out[4 * i + 2] = c[i]; out[4 * i + 3] = d[i]; }
}

#ifdef LANES64
/* A word in each 64-bit lane: MUL reads the lower halves alone, so that nothing is cleared between rounds. Four vectors at
   once hide how long a multiplication takes. */
#define DEFINE_PHILOX(NAME, TARGET, VECTOR, LANE_COUNT, MUL) \
typedef uint64_t NAME##_lanes __attribute__((vector_size(8 * LANE_COUNT))); \
__attribute__((target(TARGET))) static void NAME(uint32_t *restrict out, uint64_t first, Draws draws) { \
    NAME##_lanes step, zero = {0}; \
    for (int l = 0; l < LANE_COUNT; l++) step[l] = (uint64_t)l; \
    const NAME##_lanes m0 = zero + MULTIPLY[0], m1 = zero + MULTIPLY[1], low = zero + 0xffffffffu; \
    for (int i = 0; i < GROUP; i += 4 * LANE_COUNT) { \
        NAME##_lanes a[4], b[4], c[4], d[4]; \
        uint32_t k0 = draws.k0, k1 = draws.k1; \
        for (int v = 0; v < 4; v++) { \
            a[v] = step + (first + (uint64_t)(i + v * LANE_COUNT)); \
            b[v] = a[v] >> 32; \
            c[v] = zero + draws.stream; \
            d[v] = c[v] >> 32; \
        } \
        _Pragma("GCC unroll 10") \
        for (int round = 0; round < ROUNDS; round++, k0 += WEYL[0], k1 += WEYL[1]) \
            _Pragma("GCC unroll 4") \
            for (int v = 0; v < 4; v++) { \
                const NAME##_lanes p = (NAME##_lanes)MUL((VECTOR)a[v], (VECTOR)m0), q = (NAME##_lanes)MUL((VECTOR)c[v], (VECTOR)m1); \
                a[v] = (q >> 32) ^ b[v] ^ (uint64_t)k0; \
                c[v] = (p >> 32) ^ d[v] ^ (uint64_t)k1; \
                b[v] = q; \
                d[v] = p; \
            } \
        _Pragma("GCC unroll 4") \
        for (int v = 0; v < 4; v++) { \
            const NAME##_lanes x = (a[v] & low) | b[v] << 32, y = (c[v] & low) | d[v] << 32; \
            uint32_t *to = out + 4 * (i + v * LANE_COUNT); \
            for (int l = 0; l < LANE_COUNT; l++) { \
                const uint64_t one = x[l], two = y[l]; \
                memcpy(to + 4 * l, &one, 8); \
                memcpy(to + 4 * l + 2, &two, 8); \
            } \
        } \
    } \
}
DEFINE_PHILOX(philox_avx512, "avx512f", __m512i, 8, _mm512_mul_epu32)
DEFINE_PHILOX(philox_avx2, "avx2", __m256i, 4, _mm256_mul_epu32)
#endif

static Philox *philox_group = philox_plain;

/* The words of the counters first .. first + n, four each. */
static void philox_of(uint32_t *restrict out, uint64_t first, uint64_t n, Draws draws) {
    uint32_t rest[4 * GROUP];
    uint64_t at = 0;
    for (; at + GROUP <= n; at += GROUP) philox_group(out + 4 * at, first + at, draws);
    if (at < n) {
        philox_group(rest, first + at, draws);
        memcpy(out + 4 * at, rest, 16 * (size_t)(n - at));
    }
}

/* A draw has 32 bits. Entry e has the upper 16 of them in half word e mod 8 of counter e div 8 of one stream, the lower
   ones, which decide once in 65,536 times, in the next stream. */
#define HALVES(n) ((n) / 2 + 8)                                      /* words of room for n of them, wherever they begin */
static const Half *halves_of(uint32_t *room, uint64_t position, int n, Draws draws) {
    const uint64_t lead = position % 8;
    philox_of(room, position / 8, (lead + (uint64_t)n + 7) / 8, draws);
    return (const Half *)room + lead;
}
static uint32_t low_half(uint64_t position, Draws draws) {
    uint32_t words[4];
    draws.stream++;
    philox_of(words, position / 8, 1, draws);
    return ((const Half *)words)[position % 8];
}
