/* MagPrune: what is kept of a row, by the ranks of its magnitudes and a draw an entry. */

/* p = low + epsilon * rank / last, within [FLT_MIN, 1]; kept where draw / 2^32 < p, divided by it (scale = 0) or times scale. */
typedef struct { double low, epsilon, last; float scale; Draws draws; } Prune;

INLINE float likelihood(const Prune *p, uint32_t rank) {
    const float exact = (float)(p->low + p->epsilon * (double)(int32_t)rank / p->last);
    int32_t bits = (int32_t)as_bits(exact);                          /* in the order of the numbers: no branch       */
    bits = bits < 0x00800000 ? 0x00800000 : bits;                    /* FLT_MIN                                      */
    return as_float((uint32_t)(bits > 0x3f800000 ? 0x3f800000 : bits));
}
/* Draws below this are kept: at most 2^32. */
INLINE int64_t limit_of(const Prune *p, uint32_t rank) {
    const double exact = (double)likelihood(p, rank) * 0x1p32;
    const int64_t whole = (int64_t)exact;
    return whole + ((double)whole < exact);
}

INLINE float masked(float x, int stays) { return as_float(as_bits(x) & -(uint32_t)stays); }  /* no branch to miss */
INLINE int is_kept(const Prune *p, uint32_t rank, uint32_t half, uint64_t position) {
    const int64_t limit = limit_of(p, rank), high = limit >> 16;
    return half != high ? half < high : low_half(position, p->draws) < (limit & 0xffff);
}

/* ---- ranks: the place of a magnitude among those of its row, from the smallest, equal ones in their order ------------- */
/* Radix sort of (magnitude, place) by 8 bits of the magnitude at a time, low digits first, back and forth between a and b. */
static void ranks_of(uint32_t *restrict rank, const float *restrict x, uint32_t n, uint64_t *restrict a, uint64_t *restrict b) {
    uint32_t first[4][256];
    memset(first, 0, sizeof first);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u = magnitude(x[i]);
        a[i] = (uint64_t)u << 32 | i;
        first[0][u & 255]++; first[1][u >> 8 & 255]++; first[2][u >> 16 & 255]++; first[3][u >> 24]++;
    }
    for (int digit = 0; digit < 4; digit++) {
        uint32_t sum = 0, *f = first[digit];
        const int shift = 32 + 8 * digit;
        for (int k = 0; k < 256; k++) { uint32_t count = f[k]; f[k] = sum; sum += count; }
        for (uint32_t i = 0; i < n; i++) b[f[a[i] >> shift & 255]++] = a[i];
        uint64_t *swap = a; a = b; b = swap;
    }
    for (uint32_t i = 0; i < n; i++) rank[(uint32_t)a[i]] = i;
}

CLONES static uint32_t rank_in(const float *restrict x, int n, int at) {
    const uint32_t m = magnitude(x[at]);
    uint32_t rank = 0;
    for (int i = 0; i < n; i++) rank += magnitude(x[i]) < m;
    for (int i = 0; i < at; i++) rank += magnitude(x[i]) == m;
    return rank;
}

/* How many are below a value; both below 2^63. */
CLONES static uint32_t below_of(const uint64_t *restrict x, uint32_t n, uint64_t value) {
    uint64_t found = 0;
    for (uint32_t i = 0; i < n; i++) found += (int64_t)x[i] < (int64_t)value;
    return (uint32_t)found;
}

/* ---- without sorting: the draw decides nearly always, wherever an entry ranks within its bin ----------------------------- */
/* Bins are of the upper bits of magnitudes, 32 of them from a power of two to the next; the last one has the greatest, and
   the first all that is smaller than 2^-8 of that. A row is walked in so many parts at once, each with a table of its own, so that
   equal neighbours do not wait for each other. */
enum { BINS = 256, BIN_SHIFT = 18, SHORT = 256, PARTS = 4 };
typedef uint32_t Starts[PARTS][BINS];                                /* of each part the place of its next entry of a bin */

CLONES static void bins_of(uint8_t *restrict bin, const float *restrict x, int n) {
    const int32_t top = (int32_t)(top_of(x, n) >> BIN_SHIFT), from = top < BINS ? 0 : top - (BINS - 1);
    for (int i = 0; i < n; i++) {
        const int32_t at = (int32_t)(magnitude(x[i]) >> BIN_SHIFT) - from;
        bin[i] = (uint8_t)(at < 0 ? 0 : at);
    }
}

/* below[k]: entries in the bins before the k-th; start[p][k]: the same, and those of the k-th in the parts before the p-th. */
static void count_below(uint32_t *restrict below, Starts start, const uint8_t *restrict bin, int n) {
    const int part = n / PARTS;
    uint32_t sum = 0;
    memset(start, 0, sizeof(Starts));
    for (int i = 0; i < part; i++)
        for (int p = 0; p < PARTS; p++) start[p][bin[p * part + i]]++;
    for (int i = PARTS * part; i < n; i++) start[PARTS - 1][bin[i]]++;
    for (int k = 0; k < BINS; k++) {
        below[k] = sum;
        for (int p = 0; p < PARTS; p++) { uint32_t count = start[p][k]; start[p][k] = sum; sum += count; }
    }
    below[BINS] = sum;
}

/* (magnitude, place) of every entry, bin by bin, in their order. */
INLINE uint64_t placed(float x, int i) { return (uint64_t)magnitude(x) << 32 | (uint32_t)i; }
static void set_apart(uint64_t *restrict a, Starts start, const float *restrict x, const uint8_t *restrict bin, int n) {
    const int part = n / PARTS;
    for (int k = 0; k < part; k++)
        for (int p = 0, i = k; p < PARTS; p++, i += part) a[start[p][bin[i]]++] = placed(x[i], i);
    for (int i = PARTS * part; i < n; i++) a[start[PARTS - 1][bin[i]]++] = placed(x[i], i);
}

/* out = x * scale where even the least rank keeps the entry, else 0. */
CLONES static void keep_sure(float *restrict out, const float *restrict x, const Half *restrict half, int n, uint32_t sure, float scale) {
    for (int i = 0; i < n; i++) out[i] = half[i] < sure ? x[i] * scale : 0.0f;
}

/* The places where a half word lies in from .. from + size - 1, in their order. There is room for WORD more than n. */
typedef int Between(uint32_t *restrict found, const Half *restrict half, int n, uint32_t from, uint32_t size);

/* First as bits, WORD entries at once: few of them are set. */
CLONES static uint32_t bits_between(const Half *restrict half, uint32_t from, uint32_t size) {
    uint32_t word = 0;
    for (int k = 0; k < WORD; k++) word |= (uint32_t)(half[k] - from < size) << k;
    return word;
}
static int between_plain(uint32_t *restrict found, const Half *restrict half, int n, uint32_t from, uint32_t size) {
    int count = 0, i = 0;
    for (; i + WORD <= n; i += WORD)
        for (uint32_t word = bits_between(half + i, from, size); word; word &= word - 1)
            found[count++] = (uint32_t)(i + __builtin_ctz(word));
    for (; i < n; i++) if (half[i] - from < size) found[count++] = (uint32_t)i;
    return count;
}

#ifdef LANES64
__attribute__((target("avx512f"))) static int between_avx512(uint32_t *restrict found, const Half *restrict half, int n, uint32_t from,
                                                             uint32_t size) {
    const __m512i low = _mm512_set1_epi32((int)from), many = _mm512_set1_epi32((int)size), step = _mm512_set1_epi32(16);
    __m512i place = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    int count = 0, i = 0;
    for (; i + 16 <= n; i += 16, place = _mm512_add_epi32(place, step)) {
        const __m512i draw = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(half + i)));
        const __mmask16 in = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(draw, low), many);
        _mm512_storeu_si512(found + count, _mm512_maskz_compress_epi32(in, place));
        count += __builtin_popcount(in);
    }
    for (; i < n; i++) if (half[i] - from < size) found[count++] = (uint32_t)i;
    return count;
}
#endif

static Between *between_of = between_plain;

/* What half words say of an entry of a bin: below `stays` it is kept, from `goes` on dropped, whatever its rank there. */
typedef struct { uint32_t stays[BINS + 1], goes[BINS + 1]; } Bounds;

CLONES static void bounds_of(Bounds *restrict bounds, const uint32_t *restrict below, const Prune *p) {
    const Prune how = *p;                                            /* in registers                                 */
    for (int k = 0; k <= BINS; k++) {
        const int64_t limit = limit_of(&how, below[k]);
        bounds->stays[k] = (uint32_t)(limit >> 16);
        bounds->goes[k] = (uint32_t)((limit + 0xffff) >> 16);
    }
}

/* Settles what the bounds settle; the others stay in `open`, how many is returned. */
static int settle(float *restrict out, uint32_t *restrict open, int count, const float *restrict x, const Half *restrict half,
                  const uint8_t *restrict bin, const Bounds *restrict bounds, float scale) {
    int left = 0;
    for (int k = 0; k < count; k++) {
        const uint32_t i = open[k], b = bin[i], draw = half[i];
        const int stays = draw < bounds->stays[b], goes = draw >= bounds->goes[b + 1];
        out[i] = masked(x[i] * scale, stays);
        open[left] = i;
        left += !(stays | goes);
    }
    return left;
}

static size_t room_for_rows(int n) { return (size_t)n * 32 + (BINS + 1) * 4 + 256; }

static void prune_row(float *restrict out, const float *restrict x, uint64_t position, int n, const Prune *p, uint64_t *room) {
    uint64_t *a = room, *b = a + n;
    uint32_t *open = (uint32_t *)(b + n), *words = open + n + WORD, *rank = words + HALVES(n), *below = rank + n;
    const Half *half = halves_of(words, position, n, p->draws);
    if (p->scale == 0) {
        ranks_of(rank, x, (uint32_t)n, a, b);
        for (int i = 0; i < n; i++)
            out[i] = masked(x[i] / likelihood(p, rank[i]), is_kept(p, rank[i], half[i], position + (uint64_t)i));
        return;
    }
    const uint32_t sure = (uint32_t)(limit_of(p, 0) >> 16), never = (uint32_t)((limit_of(p, (uint32_t)n - 1) + 0xffff) >> 16);
    keep_sure(out, x, half, n, sure, p->scale);
    int count = between_of(open, half, n, sure, never - sure);
    const int binned = n > SHORT;
    uint8_t *bin = (uint8_t *)rank;
    Starts start;
    if (binned) {
        Bounds bounds;
        bins_of(bin, x, n);
        count_below(below, start, bin, n);
        bounds_of(&bounds, below, p);
        count = settle(out, open, count, x, half, bin, &bounds, p->scale);
    }
    const int sorted = binned && count > n / 8;                      /* all in a few bins                           */
    if (sorted) ranks_of(rank, x, (uint32_t)n, a, b);
    else if (binned) set_apart(a, start, x, bin, n);
    for (int k = 0; k < count; k++) {
        const uint32_t i = open[k];
        uint32_t place;
        if (sorted) place = rank[i];
        else if (binned) {
            const uint32_t from = below[bin[i]], many = below[bin[i] + 1] - from;
            place = from + below_of(a + from, many, placed(x[i], (int)i));
        } else place = rank_in(x, n, (int)i);
        out[i] = masked(x[i] * p->scale, is_kept(p, place, half[i], position + i));
    }
}
