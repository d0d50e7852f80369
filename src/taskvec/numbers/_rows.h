/* MagPrune: what is kept of a row, by the ranks of its magnitudes and a draw an entry.
 *
 * The rank of a magnitude is its place among those of its row, 0 the smallest; equal ones have the mean of their places.
 * That is a multiple of a half, so `twice` it is counted here, up to 2 * (n - 1).
 */

/* p = low + epsilon * rank / last, within [FLT_MIN, 1]; kept where draw / 2^32 < p, divided by it (scale = 0) or times scale. */
typedef struct { double low, epsilon, last; float scale; Draws draws; } Prune;

INLINE float likelihood(const Prune *p, uint32_t twice) {
    const float exact = (float)(p->low + p->epsilon * (0.5 * (double)twice) / p->last);
    int32_t bits = (int32_t)as_bits(exact);                          /* in the order of the numbers: no branch       */
    bits = bits < 0x00800000 ? 0x00800000 : bits;                    /* FLT_MIN                                      */
    return as_float((uint32_t)(bits > 0x3f800000 ? 0x3f800000 : bits));
}
/* Draws below this are kept: at most 2^32. */
INLINE int64_t limit_of(const Prune *p, uint32_t twice) {
    const double exact = (double)likelihood(p, twice) * 0x1p32;
    const int64_t whole = (int64_t)exact;
    return whole + ((double)whole < exact);
}

INLINE float masked(float x, int stays) { return as_float(as_bits(x) & -(uint32_t)stays); }  /* no branch to miss */
INLINE int is_kept(const Prune *p, uint32_t twice, uint32_t half, uint64_t position) {
    const int64_t limit = limit_of(p, twice), high = limit >> 16;
    return half != high ? half < high : low_half(position, p->draws) < (limit & 0xffff);
}

/* ---- by sorting ---------------------------------------------------------------------------------------------------- */
/* Radix sort of (magnitude, place) by 8 bits of the magnitude at a time, low digits first, back and forth between a and b. */
static void ranks_of(uint32_t *restrict twice, const float *restrict x, uint32_t n, uint64_t *restrict a, uint64_t *restrict b) {
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
    for (uint32_t from = 0, to; from < n; from = to) {               /* those that are equal                         */
        for (to = from + 1; to < n && a[to] >> 32 == a[from] >> 32;) to++;
        for (uint32_t i = from; i < to; i++) twice[(uint32_t)a[i]] = from + to - 1;
    }
}

/* ---- by counting one value ------------------------------------------------------------------------------------------- */
CLONES static uint32_t rank_in(const float *restrict x, int n, uint32_t value) {
    const int32_t v = (int32_t)value;
    uint32_t twice = 0;
    for (int i = 0; i < n; i++) {
        const int32_t m = (int32_t)magnitude(x[i]);
        twice += (uint32_t)(m < v) + (uint32_t)(m <= v);
    }
    return twice - 1;
}

/* Values whose rank is known. */
enum { MANY = 128 };
typedef struct { int count; uint32_t value[MANY], twice[MANY]; } Known;

static uint32_t known_rank(Known *known, const float *restrict x, int n, uint32_t value) {
    int k = 0;
    while (k < known->count && known->value[k] != value) k++;
    if (k == known->count) {
        known->value[k] = value;
        known->twice[k] = rank_in(x, n, value);
        known->count++;
    }
    return known->twice[k];
}

/* ---- without either: the draw decides nearly always, wherever an entry ranks within its bin ------------------------------- */
/* Bins are of the upper bits of magnitudes, 32 of them from a power of two to the next; the last one has the greatest, and
   the first all that is smaller than 2^-8 of that. A bin has cells: two for each value of the next three bits, the second
   where lower ones are set, so that an empty second one says that all in the first are equal. In the first bin 0 has the
   first cell, all else the last. */
enum { BINS = 256, BIN_SHIFT = 18, CELLS = 16, CELL_SHIFT = 15, LOWER = (1 << CELL_SHIFT) - 1 };
enum { NARROW = 96, WIDE = 1 << 16 };                               /* of a row: the tables cost more; counts overflow */
typedef uint16_t Counts[CELLS][BINS];

CLONES static void places_of(uint16_t *restrict place, const float *restrict x, int n) {
    const int32_t top = (int32_t)(top_of(x, n) >> BIN_SHIFT), from = top < BINS ? 0 : top - (BINS - 1);
    for (int i = 0; i < n; i++) {
        const uint32_t m = magnitude(x[i]);
        const int32_t bin = (int32_t)(m >> BIN_SHIFT) - from;
        const uint32_t cell = (m >> CELL_SHIFT & (CELLS / 2 - 1)) << 1 | (m & LOWER ? 1 : 0), first = m ? CELLS - 1 : 0;
        place[i] = (uint16_t)(bin <= 0 ? first * BINS : cell * BINS + (uint32_t)bin);
    }
}

CLONES static void add_counts(uint16_t *restrict count, const uint16_t *restrict other, uint32_t *restrict below) {
    uint32_t sum = 0;
    uint16_t bin[BINS] = {0};
    for (int cell = 0; cell < CELLS; cell++)
        for (int k = 0; k < BINS; k++) bin[k] += count[cell * BINS + k] += other[cell * BINS + k];
    for (int k = 0; k < BINS; k++) { below[k] = sum; sum += bin[k]; }
    below[BINS] = sum;
}

/* How many are in each cell, and below[k]: in the bins before the k-th. A row is counted in two halves at once, each with a
   table of its own, so that equal neighbours do not wait for each other. */
static void count_places(Counts count, uint32_t *restrict below, const uint16_t *restrict place, int n) {
    const int half = n / 2;
    Counts other;
    uint16_t *one = count[0], *two = other[0];
    memset(one, 0, sizeof other);
    memset(two, 0, sizeof other);
    for (int i = 0; i < half; i++) { one[place[i]]++; two[place[half + i]]++; }
    if (n % 2) one[place[n - 1]]++;
    add_counts(one, two, below);
}

/* out = x * scale where even the least rank keeps the entry, else 0. */
CLONES static void keep_sure(float *restrict out, const float *restrict x, const Half *restrict half, int n, uint32_t sure, float scale) {
    for (int i = 0; i < n; i++) out[i] = half[i] < sure ? x[i] * scale : 0.0f;
}

/* The places where a half word lies in from .. from + size - 1, in their order. There is room for WORD more than n. */
typedef int Between(uint32_t *restrict places, const Half *restrict half, int n, uint32_t from, uint32_t size);

/* First as bits, WORD entries at once: few of them are set. */
CLONES static uint32_t bits_between(const Half *restrict half, uint32_t from, uint32_t size) {
    uint32_t word = 0;
    for (int k = 0; k < WORD; k++) word |= (uint32_t)(half[k] - from < size) << k;
    return word;
}
static int between_plain(uint32_t *restrict places, const Half *restrict half, int n, uint32_t from, uint32_t size) {
    int count = 0, i = 0;
    for (; i + WORD <= n; i += WORD)
        for (uint32_t word = bits_between(half + i, from, size); word; word &= word - 1)
            places[count++] = (uint32_t)(i + __builtin_ctz(word));
    for (; i < n; i++) if (half[i] - from < size) places[count++] = (uint32_t)i;
    return count;
}

#ifdef LANES64
__attribute__((target("avx512f"))) static int between_avx512(uint32_t *restrict places, const Half *restrict half, int n, uint32_t from,
                                                             uint32_t size) {
    const __m512i low = _mm512_set1_epi32((int)from), many = _mm512_set1_epi32((int)size), step = _mm512_set1_epi32(16);
    __m512i place = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    int count = 0, i = 0;
    for (; i + 16 <= n; i += 16, place = _mm512_add_epi32(place, step)) {
        const __m512i draw = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(half + i)));
        const __mmask16 in = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(draw, low), many);
        _mm512_storeu_si512(places + count, _mm512_maskz_compress_epi32(in, place));
        count += __builtin_popcount(in);
    }
    for (; i < n; i++) if (half[i] - from < size) places[count++] = (uint32_t)i;
    return count;
}
#endif

static Between *between_of = between_plain;

/* What half words say of an entry of a bin: below `stays` it is kept, from `goes` on dropped, whatever its rank there. */
typedef struct { uint32_t stays[BINS + 1], goes[BINS + 1]; } Bounds;

CLONES static void bounds_of(Bounds *restrict bounds, const uint32_t *restrict below, const Prune *p) {
    const Prune how = *p;                                            /* in registers                                 */
    for (int k = 0; k <= BINS; k++) {
        const int64_t limit = limit_of(&how, 2 * below[k]);
        bounds->stays[k] = (uint32_t)(limit >> 16);
        bounds->goes[k] = (uint32_t)((limit + 0xffff) >> 16);
    }
}

/* Settles what the bounds settle; the others stay in `open`, how many is returned. */
static int settle(float *restrict out, uint32_t *restrict open, int count, const float *restrict x, const Half *restrict half,
                  const uint16_t *restrict place, const Bounds *restrict bounds, float scale) {
    int left = 0;
    for (int k = 0; k < count; k++) {
        const uint32_t i = open[k], b = place[i] % BINS, draw = half[i];
        const int stays = draw < bounds->stays[b], goes = draw >= bounds->goes[b + 1];
        out[i] = masked(x[i] * scale, stays);
        open[left] = i;
        left += !(stays | goes);
    }
    return left;
}

/* The same by the cells. */
static int settle_by_cells(float *restrict out, uint32_t *restrict open, int count, const float *restrict x,
                           const Half *restrict half, const uint16_t *restrict place, uint64_t position, const Prune *p,
                           const Counts counts, const uint32_t *restrict below) {
    int left = 0;
    for (int k = 0; k < count; k++) {
        const uint32_t i = open[k], b = place[i] % BINS, cell = place[i] / BINS / 2 * 2;
        uint32_t first = below[b];
        for (uint32_t c = 0; c < cell; c++) first += counts[c][b];
        const uint32_t unlike = counts[cell + 1][b], many = counts[cell][b] + unlike, last = first + many - 1;
        const uint32_t low = unlike ? 2 * first : first + last, high = unlike ? 2 * last : first + last;
        const int stays = is_kept(p, low, half[i], position + i);
        out[i] = masked(x[i] * p->scale, stays);
        open[left] = i;
        left += !stays && low != high && is_kept(p, high, half[i], position + i);
    }
    return left;
}

static size_t room_for_rows(int n) { return (size_t)n * 32 + 256; }

static void prune_row(float *restrict out, const float *restrict x, uint64_t position, int n, const Prune *p, uint64_t *room) {
    uint64_t *a = room, *b = a + n;
    uint32_t *open = (uint32_t *)(b + n), *words = open + n + WORD, *rank = words + HALVES(n);
    const Half *half = halves_of(words, position, n, p->draws);
    if (p->scale == 0) {
        ranks_of(rank, x, (uint32_t)n, a, b);
        for (int i = 0; i < n; i++)
            out[i] = masked(x[i] / likelihood(p, rank[i]), is_kept(p, rank[i], half[i], position + (uint64_t)i));
        return;
    }
    const uint32_t least = 0, greatest = 2 * ((uint32_t)n - 1);
    const uint32_t sure = (uint32_t)(limit_of(p, least) >> 16), never = (uint32_t)((limit_of(p, greatest) + 0xffff) >> 16);
    keep_sure(out, x, half, n, sure, p->scale);
    int count = between_of(open, half, n, sure, never - sure);
    if (n > NARROW && n < WIDE) {
        uint16_t *place = (uint16_t *)rank;
        Counts counts;
        Bounds bounds;
        uint32_t below[BINS + 1];
        places_of(place, x, n);
        count_places(counts, below, place, n);
        bounds_of(&bounds, below, p);
        count = settle(out, open, count, x, half, place, &bounds, p->scale);
        count = settle_by_cells(out, open, count, x, half, place, position, p, counts, below);
    }
    const int sorted = count > MANY;
    Known known = {.count = 0};
    if (sorted) ranks_of(rank, x, (uint32_t)n, a, b);
    for (int k = 0; k < count; k++) {
        const uint32_t i = open[k], twice = sorted ? rank[i] : known_rank(&known, x, n, magnitude(x[i]));
        out[i] = masked(x[i] * p->scale, is_kept(p, twice, half[i], position + i));
    }
}
