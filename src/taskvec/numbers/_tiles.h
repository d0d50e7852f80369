/* What is done to a tile: decode, scale-accumulate, encode, and what methods need beside it. No Python in here.
 *
 * Every operation is rounded on its own (no fused multiply-add: the build passes -ffp-contract=off), so that every
 * machine and in_numpy.py give the same bits. Dtype codes are those of dtypes.py.
 */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "_random.h"

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

#define LISTED(NAME) NAME,
#define NAMED(NAME) #NAME " "
#define ARITHMETIC(X) X(F32) X(F64) X(F16) X(BF16) X(F8_E4M3) X(F8_E5M2)
enum { ARITHMETIC(LISTED) DTYPES };
static const int WIDTH[DTYPES] = {4, 8, 2, 2, 1, 1};
enum { NONFINITE = 1, OVERFLOWED = 2 };
enum { TILE = 1024, MAX_INPUTS = 4096 };

/* ---- decoding to float ---------------------------------------------------------------------------------------- */
INLINE float as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
INLINE uint32_t as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

INLINE float from_bf16(uint16_t h) { return as_float((uint32_t)h << 16); }

INLINE float from_f16(uint16_t h) {
    uint32_t shifted = (uint32_t)(h & 0x7fff) << 13;                 /* exponent and mantissa in float's place     */
    uint32_t normal = as_bits(as_float(shifted) * 0x1p112f);         /* rebias; subnormals come out exact          */
    uint32_t special = shifted | 0x7f800000u;                        /* Inf and NaN keep their payload             */
    uint32_t bits = (h & 0x7c00) == 0x7c00 ? special : normal;
    return as_float(bits | (uint32_t)(h & 0x8000) << 16);
}

static float e4m3_table[256], e5m2_table[256];

static void fill_tables(void) {
    for (int i = 0; i < 256; i++) {
        int e = i >> 3 & 15, m = i & 7;
        float f = e ? ldexpf(1.0f + m / 8.0f, e - 7) : ldexpf(m / 8.0f, -6);
        if ((i & 0x7f) == 0x7f) f = as_float(0x7fc00000u);           /* e4m3 has NaN and no Inf                    */
        e4m3_table[i] = i & 0x80 ? -f : f;
        e5m2_table[i] = from_f16((uint16_t)(i << 8));                /* e5m2 is the upper byte of float16          */
    }
}

/* ---- encoding from float, to nearest even --------------------------------------------------------------------- */
INLINE uint16_t to_bf16(float f) {
    uint32_t u = as_bits(f);
    uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
    uint32_t quiet = u >> 16 | 0x40;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* A float with `mbits` of mantissa and minimum normal exponent `emin`, by adding and removing a power of two. */
INLINE float round_at(float magnitude, int mbits, int emin) {
    uint32_t exponent = as_bits(magnitude) & 0x7f800000u;
    uint32_t least = (uint32_t)(emin + 127) << 23;
    float magic = as_float((exponent > least ? exponent : least) + ((uint32_t)(23 - mbits) << 23));
    return (magnitude + magic) - magic;
}

INLINE uint16_t to_f16(float f) {
    uint32_t u = as_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    float small = as_float(a < 0x47800000u ? a : 0);                 /* below 65536: no overflow in what follows    */
    uint32_t bits = as_bits(round_at(small, 10, -14) * 0x1p-112f) >> 13;
    uint32_t big = a > 0x7f800000u ? 0x7e00u | (a >> 13 & 0x3ff) : 0x7c00u;
    return (uint16_t)((a < 0x47800000u ? bits : big) | sign);
}

INLINE uint8_t to_e5m2(float f) {
    uint32_t u = as_bits(f), sign = u >> 24 & 0x80, a = u & 0x7fffffffu;
    float small = as_float(a < 0x47800000u ? a : 0);
    uint32_t bits = as_bits(round_at(small, 2, -14) * 0x1p-112f) >> 21;
    uint32_t big = a > 0x7f800000u ? 0x7eu : 0x7cu;
    return (uint8_t)((a < 0x47800000u ? bits : big) | sign);
}

INLINE uint8_t to_e4m3(float f) {                                    /* overflow is NaN, as in torch and ml_dtypes  */
    uint32_t u = as_bits(f), sign = u >> 24 & 0x80, a = u & 0x7fffffffu;
    float rounded = round_at(as_float(a < 0x44000000u ? a : 0), 3, -6);
    uint32_t bits = as_bits(rounded * 0x1p-120f) >> 20;
    return (uint8_t)((a < 0x44000000u && rounded <= 448.0f ? bits : 0x7fu) | sign);
}

/* ---- one tile: acc = c*x or acc += c*x, then out = encode(acc) --------------------------------------------------
 * Around a pivot p it is acc = c*(x-p) or acc += c*(x-p), where x-p is exact for 16-bit numbers of similar size, and in the
 * end acc = mass*x + acc, where an acc of 0 changes nothing, not even the sign of a zero. */
#define EACH(expr) do { \
        if (first) for (int i = 0; i < n; i++) acc[i] = c * (expr); \
        else for (int i = 0; i < n; i++) acc[i] = acc[i] + c * (expr); } while (0)
#define PLAIN(x) EACH(x)
#define APART(x) EACH((x) - p[i])

#define BY_DTYPE(REAL, WHAT) \
    const REAL c = (REAL)scale; \
    switch (dtype) { \
    case F32: { const float *v = x; WHAT((REAL)v[i]); break; } \
    case F64: { const double *v = x; WHAT((REAL)v[i]); break; } \
    case F16: { const uint16_t *v = x; WHAT((REAL)from_f16(v[i])); break; } \
    case BF16: { const uint16_t *v = x; WHAT((REAL)from_bf16(v[i])); break; } \
    case F8_E4M3: { const uint8_t *v = x; WHAT((REAL)e4m3_table[v[i]]); break; } \
    case F8_E5M2: { const uint8_t *v = x; WHAT((REAL)e5m2_table[v[i]]); break; } \
    }

#define DEFINE_ACCUMULATE(NAME, AROUND_PIVOT, ONTO, REAL) \
CLONES static void NAME(REAL *restrict acc, const void *restrict x, int dtype, double scale, int first, int n) { \
    BY_DTYPE(REAL, PLAIN) \
} \
CLONES static void AROUND_PIVOT(REAL *restrict acc, const REAL *restrict p, const void *restrict x, int dtype, double scale, \
                                int first, int n) { \
    BY_DTYPE(REAL, APART) \
} \
CLONES static void ONTO(REAL *restrict acc, const REAL *restrict x, double mass, int n) { \
    const REAL m = (REAL)mass; \
    for (int i = 0; i < n; i++) acc[i] = acc[i] == 0 ? m * x[i] : m * x[i] + acc[i]; \
}
DEFINE_ACCUMULATE(accumulate32, apart32, onto32, float)
DEFINE_ACCUMULATE(accumulate64, apart64, onto64, double)

/* Bits of the least magnitude that has no finite value in a dtype (Inf's own bits where all finite floats have one). */
static const uint32_t TOO_BIG[DTYPES] = {0x7f800000u, 0x7f800000u, 0x477ff000u, 0x7f7f8000u, 0x43e80001u, 0x47700000u};

INLINE int flags_of(uint32_t top, int dtype) {
    return top >= 0x7f800000u ? NONFINITE : top >= TOO_BIG[dtype] ? OVERFLOWED : 0;
}
INLINE uint32_t greater(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* The bits of the greatest magnitude. */
CLONES static uint32_t top_of(const float *restrict x, int n) {
    uint32_t top = 0;
    for (int i = 0; i < n; i++) top = greater(top, as_bits(x[i]) & 0x7fffffffu);
    return top;
}
INLINE uint32_t magnitude(float x) { return as_bits(x) & 0x7fffffffu; }
INLINE int all_finite(const float *x, int n) { return top_of(x, n) < 0x7f800000u; }
CLONES static int all_finite64(const double *restrict x, int n) {
    int bad = 0;
    for (int i = 0; i < n; i++) bad |= !(fabs(x[i]) <= 0x1.fffffffffffffp1023);
    return !bad;
}

/* What is not finite becomes what it is in `plain`. */
#define DEFINE_MEND(NAME, REAL) \
static void NAME(REAL *restrict acc, const REAL *restrict plain, int n) { \
    for (int i = 0; i < n; i++) if (!isfinite(acc[i])) acc[i] = plain[i]; \
}
DEFINE_MEND(mend32, float)
DEFINE_MEND(mend64, double)

#define WRITE(TYPE, expr) do { TYPE *v = out; for (int i = 0; i < n; i++) v[i] = (TYPE)(expr); } while (0)

/* Returns NONFINITE if an accumulated value is Inf or NaN, else OVERFLOWED if one is not finite once encoded. */
CLONES static int encode32(void *restrict out, int dtype, const float *restrict acc, int n) {
    const uint32_t top = top_of(acc, n);
    switch (dtype) {
    case F32: memcpy(out, acc, (size_t)n * 4); break;
    case F64: WRITE(double, acc[i]); break;
    case F16: WRITE(uint16_t, to_f16(acc[i])); break;
    case BF16: WRITE(uint16_t, to_bf16(acc[i])); break;
    case F8_E4M3: WRITE(uint8_t, to_e4m3(acc[i])); break;
    case F8_E5M2: WRITE(uint8_t, to_e5m2(acc[i])); break;
    }
    return flags_of(top, dtype);
}

/* float64 accumulators meet float64 outputs; narrower ones are reached through one rounding to odd (no double rounding). */
CLONES static int encode64(void *restrict out, int dtype, const double *restrict acc, int n) {
    float narrow[TILE] = {0};
    const int bad_in = !all_finite64(acc, n);
    if (dtype == F64) { memcpy(out, acc, (size_t)n * 8); return bad_in ? NONFINITE : 0; }
    for (int i = 0; i < n; i++) {
        float f = (float)acc[i];
        if (dtype != F32 && isfinite(f) && (double)f != acc[i]) {    /* round to odd: keep a sticky last bit        */
            uint32_t u = as_bits(f);
            if (fabs((double)f) > fabs(acc[i])) u -= 1;
            f = as_float(u | 1);
        }
        narrow[i] = f;
    }
    int flags = encode32(out, dtype, narrow, n);
    return bad_in ? NONFINITE : flags ? OVERFLOWED : 0;
}

/* The common case, up to three sources and the output in bfloat16: one sweep that keeps nothing but registers. Two
 * numbers lie in each 32-bit word, so a shift and a mask decode them where they are, with nothing to unpack. The quick
 * rounding is wrong for NaN alone, which the greatest magnitude betrays: then the tile is done again with care. */
INLINE uint32_t pair_at(const uint16_t *p) { uint32_t w; memcpy(&w, p, 4); return w; }
INLINE float low(uint32_t w) { return as_float(w << 16); }
INLINE float high(uint32_t w) { return as_float(w & 0xffff0000u); }
INLINE uint32_t rounded(uint32_t u) { return u + 0x7fffu + (u >> 16 & 1); }  /* the bfloat16 is its upper half */

#define SWEEP(SUM, LAST) do { \
        uint32_t top = 0; \
        int even = n & ~1; \
        for (int i = 0; i < even; i += 2) { \
            uint32_t u = as_bits(SUM(low)), v = as_bits(SUM(high)); \
            top = greater(top, greater(u & 0x7fffffffu, v & 0x7fffffffu)); \
            uint32_t w = rounded(u) >> 16 | (rounded(v) & 0xffff0000u); \
            memcpy(out + i, &w, 4); \
        } \
        if (even < n) { int i = even; uint32_t u = as_bits(LAST); \
            top = greater(top, u & 0x7fffffffu); out[i] = (uint16_t)(rounded(u) >> 16); } \
        if (top > 0x7f800000u) for (int i = 0; i < n; i++) out[i] = to_bf16(LAST); \
        return flags_of(top, BF16); } while (0)
#define ONE(half) (a * half(pair_at(x + i)))
#define TWO(half) (a * half(pair_at(x + i)) + b * half(pair_at(y + i)))
#define THREE(half) ((a * half(pair_at(x + i)) + b * half(pair_at(y + i))) + d * half(pair_at(z + i)))

/* The same around the pivot x, which is multiplied by `a`, the mass. */
INLINE float onto(float x, float sum) { return sum == 0 ? x : x + sum; }
#define ABOUT2(half) onto(a * half(pair_at(x + i)), b * (half(pair_at(y + i)) - half(pair_at(x + i))))
#define ABOUT3(half) onto(a * half(pair_at(x + i)), b * (half(pair_at(y + i)) - half(pair_at(x + i))) + \
                                                    d * (half(pair_at(z + i)) - half(pair_at(x + i))))

CLONES static int around_bf16(uint16_t *restrict out, const uint16_t *restrict x, const uint16_t *restrict y,
                              const uint16_t *restrict z, const float *c, int m, int n) {
    const float a = c[0], b = c[1], d = c[m > 2 ? 2 : 1];
    if (m == 2) SWEEP(ABOUT2, onto(a * from_bf16(x[i]), b * (from_bf16(y[i]) - from_bf16(x[i]))));
    SWEEP(ABOUT3, onto(a * from_bf16(x[i]), b * (from_bf16(y[i]) - from_bf16(x[i])) + d * (from_bf16(z[i]) - from_bf16(x[i]))));
}

CLONES static int sweep_bf16(uint16_t *restrict out, const uint16_t *restrict x, const uint16_t *restrict y,
                             const uint16_t *restrict z, const float *c, int m, int n) {
    const float a = c[0], b = c[m > 1], d = c[m > 2 ? 2 : 0];
    if (m == 1) SWEEP(ONE, a * from_bf16(x[i]));
    if (m == 2) SWEEP(TWO, a * from_bf16(x[i]) + b * from_bf16(y[i]));
    SWEEP(THREE, (a * from_bf16(x[i]) + b * from_bf16(y[i])) + d * from_bf16(z[i]));
}

/* What methods mostly work on, the difference c*(y-x) of two bfloat16 tensors, and mostly end in, a bfloat16 tensor plus
 * what they made: one sweep each, the bits of the general path. */
CLONES static uint32_t apart_bf16(float *restrict out, const uint16_t *restrict x, const uint16_t *restrict y, float c, int n) {
    uint32_t top = 0;
    for (int i = 0; i < n; i++) {
        const float apart = c * (from_bf16(y[i]) - from_bf16(x[i]));
        out[i] = apart;
        top = greater(top, as_bits(apart) & 0x7fffffffu);
    }
    return top;
}

CLONES static int onto_bf16(uint16_t *restrict out, const uint16_t *restrict x, const float *restrict y, float a, float b, int n) {
    uint32_t top = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t u = as_bits(onto(a * from_bf16(x[i]), b * y[i]));
        top = greater(top, u & 0x7fffffffu);
        out[i] = (uint16_t)(rounded(u) >> 16);
    }
    if (top > 0x7f800000u) for (int i = 0; i < n; i++) out[i] = to_bf16(onto(a * from_bf16(x[i]), b * y[i]));
    return flags_of(top, BF16);
}

/* ---- rows of scale * B @ A ----------------------------------------------------------------------------------------- */
CLONES static void row_of(float *restrict out, const float *restrict b, const float *restrict a, Py_ssize_t stride,
                          int rank, float scale, int n) {
    for (int j = 0; j < n; j++) out[j] = 0.0f;
    for (int k = 0; k < rank; k++) {
        const float bk = b[k];
        const float *restrict row = a + (size_t)k * (size_t)stride;
        for (int j = 0; j < n; j++) out[j] = out[j] + bk * row[j];
    }
    for (int j = 0; j < n; j++) out[j] = scale * out[j];
}

/* ---- sums and counts that go on from tile to tile ---------------------------------------------------------------------- */
enum { LANES = 16 };                                                 /* TILE is a multiple: a lane sees every 16th element */

CLONES static void dot_into(double *restrict lane, const float *restrict x, const float *restrict y, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = lane[l] + (double)x[i + l] * (double)y[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] = lane[l] + (double)x[i] * (double)y[i];
}

CLONES static void sizes_into(double *restrict lane, const float *restrict x, int n) {
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = lane[l] + fabs((double)x[i + l]);
    for (int l = 0; i < n; i++, l++) lane[l] = lane[l] + fabs((double)x[i]);
}

static double sum_of(const double *lane) {
    double sum = 0;
    for (int l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}

CLONES static void signs_of(const float *restrict x, const float *restrict y, int n, int64_t *both, int64_t *against) {
    int32_t b = 0, d = 0;
    for (int i = 0; i < n; i++) {
        uint32_t u = as_bits(x[i]), v = as_bits(y[i]);
        /* neither 0 nor NaN, whose sign depends on the order of what made it */
        int32_t counts = ((u & 0x7fffffffu) - 1 < 0x7f800000u) & ((v & 0x7fffffffu) - 1 < 0x7f800000u);
        b += counts;
        d += counts & (int32_t)((u ^ v) >> 31);
    }
    *both += b;
    *against += d;
}

CLONES static int equal_of(const float *restrict x, int n, float size) {
    int32_t count = 0;
    for (int i = 0; i < n; i++) count += fabsf(x[i]) == size;
    return count;
}

CLONES static void equal_into(uint32_t *equal, uint32_t *above, const float *restrict x, int n, float size) {
    int32_t e = 0, a = 0;
    for (int i = 0; i < n; i++) {
        e += fabsf(x[i]) == size;
        a += fabsf(x[i]) > size;
    }
    *equal += (uint32_t)e;
    *above += (uint32_t)a;
}

/* Magnitudes as offsets from `from`; those below wrap around. How many lie `size` or more above it. */
CLONES static uint32_t offsets_of(uint32_t *restrict off, const float *restrict x, int n, uint32_t from, uint32_t size) {
    uint32_t above = 0;
    for (int i = 0; i < n; i++) {
        uint32_t u = as_bits(x[i]) & 0x7fffffffu;
        off[i] = u - from;
        above += u >= from + size;
    }
    return above;
}

/* Of the magnitudes the offsets from `from` that are less than `size`, in their order: how many. No branch to miss. `above` is
   more by how many lie beyond. There is room for 16 more than n <= TILE. */
typedef int Within(uint32_t *restrict near, uint32_t *above, const float *restrict x, int n, uint32_t from, uint32_t size);

static int within_plain(uint32_t *restrict near, uint32_t *above, const float *restrict x, int n, uint32_t from, uint32_t size) {
    uint32_t off[TILE];
    int count = 0;
    *above += offsets_of(off, x, n, from, size);
    for (int i = 0; i < n; i++) {
        near[count] = off[i];
        count += off[i] < size;
    }
    return count;
}

#ifdef LANES64
__attribute__((target("avx512f")))
static int within_avx512(uint32_t *restrict near, uint32_t *above, const float *restrict x, int n, uint32_t from, uint32_t size) {
    const __m512i least = _mm512_set1_epi32((int)from), limit = _mm512_set1_epi32((int)size), end = _mm512_add_epi32(least, limit);
    const __m512i bits = _mm512_set1_epi32(0x7fffffff), one = _mm512_set1_epi32(1);
    __m512i beyond = _mm512_setzero_si512();
    int count = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512i u = _mm512_and_si512(_mm512_loadu_si512(x + i), bits), off = _mm512_sub_epi32(u, least);
        const __mmask16 in = _mm512_cmplt_epu32_mask(off, limit);
        beyond = _mm512_mask_add_epi32(beyond, _mm512_cmpge_epu32_mask(u, end), beyond, one);
        _mm512_storeu_si512(near + count, _mm512_maskz_compress_epi32(in, off));
        count += __builtin_popcount(in);
    }
    *above += (uint32_t)_mm512_reduce_add_epi32(beyond);
    return count + within_plain(near + count, above, x + i, n - i, from, size);
}
#endif

static Within *within_of = within_plain;

/* first < 0: counts[magnitude >> 16] += 1, 2^15 bins. Else counts[magnitude - (first << 16)] += 1 where magnitude >> 16
   lies in first .. first + bins, bins << 16 counts, and one more for how many lie above. The few that are inside are set
   aside before they are counted. n <= TILE. */
static void count_into(uint32_t *restrict counts, const float *restrict x, int n, int64_t first, uint32_t bins) {
    if (first < 0) { for (int i = 0; i < n; i++) counts[(as_bits(x[i]) & 0x7fffffffu) >> 16]++; return; }
    const uint32_t from = (uint32_t)first << 16, size = bins << 16;
    uint32_t near[TILE + 16];
    const int inside = within_of(near, counts + size, x, n, from, size);
    for (int i = 0; i < inside; i++) counts[near[i]]++;
}

/* ---- what is kept of a tile ------------------------------------------------------------------------------------------ */
/* out = x where low <= |x| < high (high = Inf: no bound), else 0. */
CLONES static void keep_of(float *restrict out, const float *restrict x, int n, float low, float high) {
    for (int i = 0; i < n; i++) {
        float size = fabsf(x[i]);
        out[i] = (size >= low) & (size < high) ? x[i] : 0.0f;
    }
}

/* The same, but of the entries whose magnitude is `low` only the first `kept` stay, and of those that equal `high` only the
   first `gone` go; both are less by what was met. */
static void keep_first(float *restrict out, const float *restrict x, int n, float low, float high, int64_t *kept, int64_t *gone) {
    const int64_t at_low = equal_of(x, n, low), at_high = equal_of(x, n, high);
    if ((at_low > *kept && *kept) || (at_high > *gone && *gone)) {   /* it ends within this tile                    */
        for (int i = 0; i < n; i++) {
            float size = fabsf(x[i]);
            int stays = (size >= low) & (size < high);
            if (size == high) stays = (*gone)-- <= 0;
            if (size == low) stays &= (*kept)-- > 0;
            out[i] = stays ? x[i] : 0.0f;
        }
    } else {
        keep_of(out, x, n, at_low > *kept ? nextafterf(low, INFINITY) : low, at_high > *gone ? nextafterf(high, INFINITY) : high);
        *kept -= at_low;
        *gone -= at_high;
    }
    if (*kept < 0) *kept = 0;
    if (*gone < 0) *gone = 0;
}

/* out = x * scale where a half word is at least `least`, else 0; how many are equal to it. */
CLONES static int drop_of(float *restrict out, const float *restrict x, const Half *restrict half, int n, uint16_t least,
                          float scale) {
    int32_t equal = 0;
    for (int i = 0; i < n; i++) {
        equal += half[i] == least;
        out[i] = half[i] >= least ? x[i] * scale : 0.0f;
    }
    return equal;
}

/* out = x * scale where the entry's 32-bit draw is at least `least`, else 0. */
static void drop_tile(float *restrict out, const float *restrict x, uint64_t position, int n, Draws draws, uint32_t least, float scale) {
    uint32_t room[HALVES(TILE)];
    const Half *half = halves_of(room, position, n, draws), high = (uint16_t)(least >> 16), low = (uint16_t)least;
    if (!drop_of(out, x, half, n, high, scale) || !low) return;
    for (int i = 0; i < n; i++)
        if (half[i] == high && low_half(position + (uint64_t)i, draws) < low) out[i] = 0.0f;
}

/* ---- a bit an entry, the lowest one first ----------------------------------------------------------------------------- */
enum { WORD = 32 };                                                  /* entries at once; a tile is a multiple         */

CLONES static void mask_of(float *restrict out, const float *restrict x, const uint8_t *restrict bits, int n, float scale) {
    int i = 0;
    for (; i + WORD <= n; i += WORD) {
        uint32_t word = 0;
        for (int k = 0; k < WORD / 8; k++) word |= (uint32_t)bits[i / 8 + k] << 8 * k;
        for (int k = 0; k < WORD; k++) out[i + k] = as_float(as_bits(x[i + k] * scale) & -(word >> k & 1));
    }
    for (; i < n; i++) out[i] = bits[i / 8] >> i % 8 & 1 ? x[i] * scale : 0.0f;
}

CLONES static void nonzero_of(uint8_t *restrict bits, const float *restrict x, int n) {
    int i = 0;
    for (; i + WORD <= n; i += WORD) {
        uint32_t word = 0;
        for (int k = 0; k < WORD; k++) word |= (uint32_t)(as_bits(x[i + k]) != 0) << k;
        for (int k = 0; k < WORD / 8; k++) bits[i / 8 + k] = (uint8_t)(word >> 8 * k);
    }
    for (; i < n; i++) bits[i / 8] = (uint8_t)((i % 8 ? bits[i / 8] : 0) | (as_bits(x[i]) != 0) << i % 8);
}

/* ---- the election ------------------------------------------------------------------------------------------------------ */
INLINE float sign_of(float x) { return (float)(x > 0) - (float)(x < 0); }

/* plus: a sum of zero elects plus, not nobody. weight: what an agreeing entry adds to the divisor of the mean, which is 1
   where that is 0. Nothing but masks, so that the loops are vectorised. */
typedef struct { int inputs, by_count, mean, plus; } Election;

enum { CHUNK = 64 };                                                 /* what the registers hold                     */
INLINE void elect_chunk(float *restrict out, const float *const *x, const float *weight, Election e, int at, int n) {
    float total[CHUNK] = {0}, agree[CHUNK] = {0}, sum[CHUNK] = {0};
    for (int k = 0; k < e.inputs; k++) {
        const float *restrict v = x[k] + at;
        if (e.by_count) for (int i = 0; i < n; i++) total[i] += sign_of(v[i]);
        else for (int i = 0; i < n; i++) total[i] += v[i];
    }
    if (e.plus) for (int i = 0; i < n; i++) total[i] = total[i] >= 0 ? 1.0f : -1.0f;
    else for (int i = 0; i < n; i++) total[i] = sign_of(total[i]);
    for (int k = 0; k < e.inputs; k++) {
        const float *restrict v = x[k] + at;
        const float w = weight[k];
        for (int i = 0; i < n; i++) sum[i] += v[i] * total[i] > 0 ? v[i] : 0.0f;
        for (int i = 0; i < n; i++) agree[i] += v[i] * total[i] > 0 ? w : 0.0f;
    }
    if (e.mean && e.inputs == 2 && weight[0] == 1 && weight[1] == 1)  /* halving is exact, and a division is dear        */
        for (int i = 0; i < n; i++) sum[i] = sum[i] * (agree[i] == 2 ? 0.5f : 1.0f);
    else if (e.mean) for (int i = 0; i < n; i++) sum[i] = sum[i] / (agree[i] + (float)(agree[i] == 0));
    for (int i = 0; i < n; i++) out[at + i] = sum[i];
}

CLONES static void elect_tile(float *restrict out, const float *const *x, const float *weight, Election e, int n) {
    int at = 0;
    for (; at + CHUNK <= n; at += CHUNK) elect_chunk(out, x, weight, e, at, CHUNK);
    if (at < n) elect_chunk(out, x, weight, e, at, n - at);
}

/* out = NaN where x is not finite: a comparison with NaN is false, and what a method would drop in silence stays to be seen. */
CLONES static void taint(float *restrict out, const float *restrict x, int n) {
    for (int i = 0; i < n; i++) out[i] = (as_bits(x[i]) & 0x7fffffffu) >= 0x7f800000u ? as_float(0x7fc00000u) : out[i];
}
