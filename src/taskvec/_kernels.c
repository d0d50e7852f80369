/* The streaming kernels: decode, scale-accumulate, encode; low-rank rows; Gram sums.
 *
 * Every function works on raw little-endian buffers, releases the GIL, and rounds each operation
 * on its own (no fused multiply-add: the build passes -ffp-contract=off), so that every machine and the numpy path of
 * kernels.py give the same bits. Dtype codes are those of kernels.py. Limited API: one binary for CPython >= 3.11.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

enum { F32, F64, F16, BF16, F8_E4M3, F8_E5M2, DTYPES };
static const int WIDTH[DTYPES] = {4, 8, 2, 2, 1, 1};
enum { NONFINITE = 1, OVERFLOWED = 2 };
enum { TILE = 2048, MAX_INPUTS = 4096 };

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

/* ---- one tile: acc = c*x or acc += c*x, then out = encode(acc) -------------------------------------------------- */
#define EACH(expr) do { \
        if (first) for (int i = 0; i < n; i++) acc[i] = c * (expr); \
        else for (int i = 0; i < n; i++) acc[i] = acc[i] + c * (expr); } while (0)

#define DEFINE_ACCUMULATE(NAME, REAL) \
CLONES static void NAME(REAL *restrict acc, const void *restrict x, int dtype, double scale, int first, int n) { \
    const REAL c = (REAL)scale; \
    switch (dtype) { \
    case F32: { const float *v = x; EACH((REAL)v[i]); break; } \
    case F64: { const double *v = x; EACH((REAL)v[i]); break; } \
    case F16: { const uint16_t *v = x; EACH((REAL)from_f16(v[i])); break; } \
    case BF16: { const uint16_t *v = x; EACH((REAL)from_bf16(v[i])); break; } \
    case F8_E4M3: { const uint8_t *v = x; EACH((REAL)e4m3_table[v[i]]); break; } \
    case F8_E5M2: { const uint8_t *v = x; EACH((REAL)e5m2_table[v[i]]); break; } \
    } \
}
DEFINE_ACCUMULATE(accumulate32, float)
DEFINE_ACCUMULATE(accumulate64, double)

/* Bits of the least magnitude that has no finite value in a dtype (Inf's own bits where all finite floats have one). */
static const uint32_t TOO_BIG[DTYPES] = {0x7f800000u, 0x7f800000u, 0x477ff000u, 0x7f7f8000u, 0x43e80001u, 0x47700000u};

INLINE int flags_of(uint32_t top, int dtype) {
    return top >= 0x7f800000u ? NONFINITE : top >= TOO_BIG[dtype] ? OVERFLOWED : 0;
}
INLINE uint32_t greater(uint32_t a, uint32_t b) { return a > b ? a : b; }

#define WRITE(TYPE, expr) do { TYPE *v = out; for (int i = 0; i < n; i++) v[i] = (TYPE)(expr); } while (0)

/* Returns NONFINITE if an accumulated value is Inf or NaN, else OVERFLOWED if one is not finite once encoded. */
CLONES static int encode32(void *restrict out, int dtype, const float *restrict acc, int n) {
    uint32_t top = 0;
    for (int i = 0; i < n; i++) top = greater(top, as_bits(acc[i]) & 0x7fffffffu);
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
    uint32_t bad_in = 0;
    for (int i = 0; i < n; i++) bad_in |= !(fabs(acc[i]) <= 0x1.fffffffffffffp1023);
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

CLONES static int sweep_bf16(uint16_t *restrict out, const uint16_t *restrict x, const uint16_t *restrict y,
                             const uint16_t *restrict z, const float *c, int m, int n) {
    const float a = c[0], b = c[m > 1], d = c[m > 2 ? 2 : 0];
    if (m == 1) SWEEP(ONE, a * from_bf16(x[i]));
    if (m == 2) SWEEP(TWO, a * from_bf16(x[i]) + b * from_bf16(y[i]));
    SWEEP(THREE, (a * from_bf16(x[i]) + b * from_bf16(y[i])) + d * from_bf16(z[i]));
}

/* ---- Python: buffers in, flags out -------------------------------------------------------------------------------- */
typedef struct { Py_buffer view; int held; } Held;

static int hold(Held *h, PyObject *o, int writable, Py_ssize_t least) {
    if (PyObject_GetBuffer(o, &h->view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) return -1;
    h->held = 1;
    if (h->view.len >= least) return 0;
    PyErr_Format(PyExc_ValueError, "a buffer of %zd bytes where %zd are needed", h->view.len, least);
    return -1;
}
static void release(Held *h, Py_ssize_t count) {
    for (Py_ssize_t k = 0; k < count; k++) if (h[k].held) PyBuffer_Release(&h[k].view);
}

/* Where an input's elements come from: memory, or a file that is read through a window of scratch memory. */
typedef struct {
    const char *at;                                                  /* the next element, in memory or in the window */
    char *window;                                                    /* NULL for an input in memory                  */
    int fd;
    off_t offset;
    int dtype;
    double scale;
} Input;

typedef struct { int input, error; } Failure;                        /* which input could not be read, and errno or 0 */

static int fill(Input *in, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = pread(in->fd, in->window + done, bytes - done, in->offset + (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got < 0 ? errno : -1;
        done += (size_t)got;
    }
    in->offset += (off_t)bytes;
    in->at = in->window;
    return 0;
}

static int combine_window(char *out, int out_dtype, Input *in, const float *c32, int m, size_t n, int wide, int sweep) {
    double acc64[TILE];
    float *acc32 = (float *)acc64;
    int flags = 0;
    for (size_t at = 0; at < n; at += TILE) {
        int len = n - at < TILE ? (int)(n - at) : TILE;
        char *to = out + at * WIDTH[out_dtype];
        if (sweep) {
            const uint16_t *x = (const void *)in[0].at, *y = (const void *)in[m > 1].at, *z = (const void *)in[m > 2 ? 2 : 0].at;
            flags |= sweep_bf16((uint16_t *)to, x + at, y + at, z + at, c32, m, len);
            continue;
        }
        for (int k = 0; k < m; k++) {
            const char *from = in[k].at + at * WIDTH[in[k].dtype];
            if (wide) accumulate64(acc64, from, in[k].dtype, in[k].scale, k == 0, len);
            else accumulate32(acc32, from, in[k].dtype, in[k].scale, k == 0, len);
        }
        flags |= wide ? encode64(to, out_dtype, acc64, len) : encode32(to, out_dtype, acc32, len);
    }
    return flags;
}

static int combine_all(char *out, int out_dtype, Input *in, int m, size_t n, size_t window, Failure *failure) {
    float c32[3] = {0};
    int flags = 0, wide = out_dtype == F64, sweep = out_dtype == BF16 && m <= 3;
    for (int k = 0; k < m; k++) {
        wide |= in[k].dtype == F64;
        sweep &= in[k].dtype == BF16;
        if (k < 3) c32[k] = (float)in[k].scale;
    }
    for (size_t at = 0; at < n; at += window) {
        size_t len = n - at < window ? n - at : window;
        for (int k = 0; k < m; k++)
            if (in[k].window && (failure->error = fill(&in[k], len * WIDTH[in[k].dtype]))) { failure->input = k; return 0; }
        flags |= combine_window(out + at * WIDTH[out_dtype], out_dtype, in, c32, m, len, wide, sweep);
        for (int k = 0; k < m; k++) if (!in[k].window) in[k].at += len * WIDTH[in[k].dtype];
    }
    return flags & NONFINITE ? NONFINITE : flags;
}

/* One input: a buffer, or a pair (file descriptor, offset) that gets its share of the scratch memory as a window. */
static int take_input(Input *in, Held *h, PyObject *o, Py_ssize_t n, char *window) {
    if (!PyTuple_Check(o)) {
        if (hold(h, o, 0, n * WIDTH[in->dtype]) < 0) return -1;
        in->at = h->view.buf;
        return 0;
    }
    long long offset;
    if (!PyArg_ParseTuple(o, "iL", &in->fd, &offset)) return -1;
    in->offset = (off_t)offset;
    in->window = window;
    return 0;
}

static PyObject *combine(PyObject *self, PyObject *args) {
    PyObject *out_obj, *inputs, *codes, *scales, *scratch, *result = NULL;
    int out_dtype;
    Py_ssize_t n, m;
    if (!PyArg_ParseTuple(args, "OiO!O!O!nO", &out_obj, &out_dtype, &PyTuple_Type, &inputs, &PyTuple_Type, &codes,
                          &PyTuple_Type, &scales, &n, &scratch)) return NULL;
    m = PyTuple_Size(inputs);
    if (m < 1 || m > MAX_INPUTS || PyTuple_Size(codes) != m || PyTuple_Size(scales) != m || n < 0 || out_dtype < 0 ||
        out_dtype >= DTYPES) {
        PyErr_SetString(PyExc_ValueError, "combine: inputs, dtypes and scales must be tuples of one length");
        return NULL;
    }
    Held *held = PyMem_Calloc((size_t)m + 2, sizeof(Held));
    Input *in = PyMem_Calloc((size_t)m, sizeof(Input));
    if (!held || !in) { PyErr_NoMemory(); goto done; }
    if (hold(&held[m], out_obj, 1, n * WIDTH[out_dtype]) < 0 || hold(&held[m + 1], scratch, 1, 0) < 0) goto done;
    size_t window = (size_t)n, files = 0, widest = 1;
    for (Py_ssize_t k = 0; k < m; k++) {
        long code = PyLong_AsLong(PyTuple_GetItem(codes, k));
        in[k].scale = PyFloat_AsDouble(PyTuple_GetItem(scales, k));
        if (PyErr_Occurred()) goto done;
        if (code < 0 || code >= DTYPES) { PyErr_SetString(PyExc_ValueError, "combine: unknown dtype code"); goto done; }
        in[k].dtype = (int)code;
        if (PyTuple_Check(PyTuple_GetItem(inputs, k))) {
            files++;
            if ((size_t)WIDTH[code] > widest) widest = (size_t)WIDTH[code];
        }
    }
    if (files) {                                                     /* whole tiles of every file's elements        */
        window = (size_t)held[m + 1].view.len / files / widest / TILE * TILE;
        if (!window && n) { PyErr_SetString(PyExc_ValueError, "combine: the scratch memory is too small"); goto done; }
    }
    for (Py_ssize_t k = 0, file = 0; k < m; k++) {
        PyObject *o = PyTuple_GetItem(inputs, k);
        char *mine = (char *)held[m + 1].view.buf + (size_t)file * window * widest;
        if (take_input(&in[k], &held[k], o, n, mine) < 0) goto done;
        file += in[k].window != NULL;
    }
    int flags;
    Failure failure = {0, 0};
    Py_BEGIN_ALLOW_THREADS
    flags = combine_all(held[m].view.buf, out_dtype, in, (int)m, (size_t)n, window, &failure);
    Py_END_ALLOW_THREADS
    if (failure.error > 0) {
        PyObject *which = PyUnicode_FromFormat("input %d", failure.input);
        errno = failure.error;
        if (which) PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, which);
        Py_XDECREF(which);
    } else if (failure.error) {
        PyErr_Format(PyExc_EOFError, "input %d", failure.input);
    } else {
        result = PyLong_FromLong(flags);
    }
done:
    if (held) release(held, m + 2);
    PyMem_Free(held); PyMem_Free(in);
    return result;
}

/* ---- rows of scale * B @ A ---------------------------------------------------------------------------------------- */
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

static PyObject *lowrank(PyObject *self, PyObject *args) {
    PyObject *out_obj, *b_obj, *a_obj, *result = NULL;
    Py_ssize_t start, n, cols;
    int rank;
    double scale;
    if (!PyArg_ParseTuple(args, "OOOnnnid", &out_obj, &b_obj, &a_obj, &start, &n, &cols, &rank, &scale)) return NULL;
    Held h[3] = {0};
    if (start < 0 || n < 0 || cols < 1 || rank < 0) { PyErr_SetString(PyExc_ValueError, "lowrank: bad range"); goto done; }
    if (hold(&h[0], out_obj, 1, n * 4) < 0 || hold(&h[2], a_obj, 0, rank * cols * 4) < 0 ||
        hold(&h[1], b_obj, 0, n ? ((start + n - 1) / cols + 1) * rank * 4 : 0) < 0) goto done;
    Py_BEGIN_ALLOW_THREADS
    float *out = h[0].view.buf;
    const float *b = h[1].view.buf, *a = h[2].view.buf;
    for (Py_ssize_t done = 0; done < n;) {
        Py_ssize_t row = (start + done) / cols, col = (start + done) % cols;
        Py_ssize_t len = cols - col < n - done ? cols - col : n - done;
        if (len > TILE) len = TILE;                                  /* the tile stays in L1 while k runs           */
        row_of(out + done, b + row * rank, a + col, cols, rank, (float)scale, (int)len);
        done += len;
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    release(h, 3);
    return result;
}

/* ---- dot products and sign conflicts of pairs ----------------------------------------------------------------------- */
enum { LANES = 16 };

CLONES static double dot_of(const float *restrict x, const float *restrict y, size_t n) {
    double lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = lane[l] + (double)x[i + l] * (double)y[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] = lane[l] + (double)x[i] * (double)y[i];
    double sum = 0;
    for (int l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}

CLONES static void signs_of(const float *restrict x, const float *restrict y, size_t n, int64_t *both, int64_t *against) {
    int64_t b = 0, d = 0;
    for (size_t at = 0; at < n; at += 1 << 20) {
        int32_t cb = 0, cd = 0;
        int len = n - at < 1 << 20 ? (int)(n - at) : 1 << 20;
        for (int i = 0; i < len; i++) {
            uint32_t u = as_bits(x[at + i]), v = as_bits(y[at + i]);
            int32_t nonzero = ((u & 0x7fffffffu) != 0) & ((v & 0x7fffffffu) != 0);
            cb += nonzero;
            cd += nonzero & (int32_t)((u ^ v) >> 31);
        }
        b += cb; d += cd;
    }
    *both = b; *against = d;
}

static PyObject *pair(PyObject *self, PyObject *args) {
    PyObject *x_obj, *y_obj, *result = NULL;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "OOn", &x_obj, &y_obj, &n)) return NULL;
    Held h[2] = {0};
    double dot;
    int64_t both, against;
    if (hold(&h[0], x_obj, 0, n * 4) < 0 || hold(&h[1], y_obj, 0, n * 4) < 0) goto done;
    Py_BEGIN_ALLOW_THREADS
    dot = dot_of(h[0].view.buf, h[1].view.buf, (size_t)n);
    signs_of(h[0].view.buf, h[1].view.buf, (size_t)n, &both, &against);
    Py_END_ALLOW_THREADS
    result = Py_BuildValue("dLL", dot, (long long)both, (long long)against);
done:
    release(h, 2);
    return result;
}

/* ---- what methods need: counts of magnitudes, random words, the election ------------------------------------------- */
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

/* first < 0: counts[magnitude >> 16] += 1, 2^15 bins. Else counts[magnitude - (first << 16)] += 1 where magnitude >> 16 lies
   in first .. first + bins, bins << 16 counts. The few that do are set aside before they are counted: no branch to miss.
   Returns how many are above the last bin. */
static size_t count_of(uint32_t *restrict counts, const float *restrict x, size_t n, int64_t first, uint32_t bins) {
    if (first < 0) { for (size_t i = 0; i < n; i++) counts[(as_bits(x[i]) & 0x7fffffffu) >> 16]++; return 0; }
    const uint32_t from = (uint32_t)first << 16, size = bins << 16;
    size_t above = 0;
    for (size_t at = 0; at < n; at += TILE) {
        uint32_t off[TILE], near[TILE + 1];
        int len = n - at < TILE ? (int)(n - at) : TILE, found = 0;
        above += offsets_of(off, x + at, len, from, size);
        for (int i = 0; i < len; i++) {
            near[found] = off[i];
            found += off[i] < size;
        }
        for (int i = 0; i < found; i++) counts[near[i]]++;
    }
    return above;
}

static PyObject *count(PyObject *self, PyObject *args) {
    PyObject *counts_obj, *x_obj, *result = NULL;
    Py_ssize_t n, first, bins;
    size_t above;
    if (!PyArg_ParseTuple(args, "OOnnn", &counts_obj, &x_obj, &n, &first, &bins)) return NULL;
    Held h[2] = {0};
    if (n < 0 || bins < 1 || first + bins > 1 << 15) { PyErr_SetString(PyExc_ValueError, "count: bad range"); goto done; }
    if (hold(&h[0], counts_obj, 1, (first < 0 ? 1 << 15 : bins << 16) * 4) < 0 || hold(&h[1], x_obj, 0, n * 4) < 0) goto done;
    Py_BEGIN_ALLOW_THREADS
    above = count_of(h[0].view.buf, h[1].view.buf, (size_t)n, (int64_t)first, (uint32_t)bins);
    Py_END_ALLOW_THREADS
    result = PyLong_FromSize_t(above);
done:
    release(h, 2);
    return result;
}

/* Philox4x32-10 of the counters first .. first+n, 128 bits each: the number, then the stream; four words a counter. */
enum { LANE_COUNTERS = 256 };
CLONES static void philox_of(uint32_t *restrict out, uint64_t first, int n, uint64_t stream, uint32_t k0, uint32_t k1) {
    uint32_t a[LANE_COUNTERS], b[LANE_COUNTERS], c[LANE_COUNTERS], d[LANE_COUNTERS];
    for (int i = 0; i < n; i++) {
        a[i] = (uint32_t)(first + (uint64_t)i);
        b[i] = (uint32_t)((first + (uint64_t)i) >> 32);
        c[i] = (uint32_t)stream;
        d[i] = (uint32_t)(stream >> 32);
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int i = 0; i < n; i++) {
            uint64_t p = (uint64_t)a[i] * 0xD2511F53u, q = (uint64_t)c[i] * 0xCD9E8D57u;
            a[i] = (uint32_t)(q >> 32) ^ b[i] ^ k0;
            c[i] = (uint32_t)(p >> 32) ^ d[i] ^ k1;
            b[i] = (uint32_t)q;
            d[i] = (uint32_t)p;
        }
    for (int i = 0; i < n; i++) { out[4 * i] = a[i]; out[4 * i + 1] = b[i]; out[4 * i + 2] = c[i]; out[4 * i + 3] = d[i]; }
}

static PyObject *philox(PyObject *self, PyObject *args) {
    PyObject *out_obj, *result = NULL;
    Py_ssize_t n;
    unsigned long long first, stream;
    unsigned int k0, k1;
    if (!PyArg_ParseTuple(args, "OnKKII", &out_obj, &n, &first, &stream, &k0, &k1)) return NULL;
    Held h[1] = {0};
    if (n < 0 || hold(&h[0], out_obj, 1, n * 16) < 0) goto done;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < n; at += LANE_COUNTERS)
        philox_of((uint32_t *)h[0].view.buf + 4 * at, first + (uint64_t)at, n - at < LANE_COUNTERS ? (int)(n - at) : LANE_COUNTERS,
                  stream, k0, k1);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    release(h, 1);
    return result;
}

/* out = x where low <= |x| < high (high = Inf: no bound), else 0. */
CLONES static void keep_of(float *restrict out, const float *restrict x, size_t n, float low, float high) {
    for (size_t i = 0; i < n; i++) {
        float size = fabsf(x[i]);
        out[i] = (size >= low) & (size < high) ? x[i] : 0.0f;
    }
}

/* out = x * scale where the upper 24 bits of its word are at least `least`, else 0. */
CLONES static void drop_of(float *restrict out, const float *restrict x, const uint32_t *restrict words, size_t n,
                           uint32_t least, float scale) {
    for (size_t i = 0; i < n; i++) out[i] = words[i] >> 8 >= least ? x[i] * scale : 0.0f;
}

static PyObject *keep(PyObject *self, PyObject *args) {
    PyObject *out_obj, *x_obj, *result = NULL;
    Py_ssize_t n;
    double low, high;
    if (!PyArg_ParseTuple(args, "OOndd", &out_obj, &x_obj, &n, &low, &high)) return NULL;
    Held h[2] = {0};
    if (hold(&h[0], out_obj, 1, n * 4) < 0 || hold(&h[1], x_obj, 0, n * 4) < 0) goto done;
    Py_BEGIN_ALLOW_THREADS
    keep_of(h[0].view.buf, h[1].view.buf, (size_t)n, (float)low, (float)high);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    release(h, 2);
    return result;
}

static PyObject *drop(PyObject *self, PyObject *args) {
    PyObject *out_obj, *x_obj, *words_obj, *result = NULL;
    Py_ssize_t n;
    unsigned int least;
    double scale;
    if (!PyArg_ParseTuple(args, "OOOnId", &out_obj, &x_obj, &words_obj, &n, &least, &scale)) return NULL;
    Held h[3] = {0};
    if (hold(&h[0], out_obj, 1, n * 4) < 0 || hold(&h[1], x_obj, 0, n * 4) < 0 || hold(&h[2], words_obj, 0, n * 4) < 0)
        goto done;
    Py_BEGIN_ALLOW_THREADS
    drop_of(h[0].view.buf, h[1].view.buf, h[2].view.buf, (size_t)n, least, (float)scale);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    release(h, 3);
    return result;
}

/* The place of each of n magnitudes among them, from the smallest, equal ones in their order. Radix sort of (magnitude,
   place) by 8 bits of the magnitude at a time, low digits first, back and forth between `a` and `b`. */
static void ranks_of(uint32_t *restrict rank, const float *restrict x, uint32_t n, uint64_t *restrict a, uint64_t *restrict b) {
    uint32_t first[4][256];
    memset(first, 0, sizeof first);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u = as_bits(x[i]) & 0x7fffffffu;
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

/* Row by row: p = density - epsilon/2 + epsilon * rank / (n-1), within [FLT_MIN, 1]; kept where the upper 24 bits of the
   entry's word / 2^24 are below it, divided by it (scale = 0) or times scale. */
CLONES static void prune_by(float *restrict out, const float *restrict x, const uint32_t *restrict words,
                            const uint32_t *restrict rank, int n, double low, double epsilon, double last, float scale) {
    const int divides = scale == 0;
    for (int i = 0; i < n; i++) {
        double exact = low + epsilon * (double)(int32_t)rank[i] / last;
        exact = exact < FLT_MIN ? FLT_MIN : exact;
        float p = (float)(exact > 1 ? 1 : exact);
        float kept = divides ? x[i] / p : x[i] * scale;              /* a mask, not a branch that is missed half the time */
        uint32_t stays = -(uint32_t)((float)(int32_t)(words[i] >> 8) * 0x1p-24f < p);
        out[i] = as_float(as_bits(kept) & stays);
    }
}

static PyObject *prune(PyObject *self, PyObject *args) {
    PyObject *out_obj, *x_obj, *words_obj, *result = NULL;
    Py_ssize_t rows, width;
    double density, epsilon, scale;
    if (!PyArg_ParseTuple(args, "OOOnnddd", &out_obj, &x_obj, &words_obj, &rows, &width, &density, &epsilon, &scale)) return NULL;
    Held h[3] = {0};
    void *room = NULL;
    if (rows < 0 || width < 0 || width > INT32_MAX) { PyErr_SetString(PyExc_ValueError, "prune: bad size"); goto done; }
    Py_ssize_t n = rows * width;
    if (hold(&h[0], out_obj, 1, n * 4) < 0 || hold(&h[1], x_obj, 0, n * 4) < 0 || hold(&h[2], words_obj, 0, n * 4) < 0) goto done;
    if (!(room = PyMem_Malloc((size_t)width * 20 + 16))) { PyErr_NoMemory(); goto done; }
    Py_BEGIN_ALLOW_THREADS
    uint64_t *a = room, *b = a + width;
    uint32_t *rank = (uint32_t *)(b + width);
    for (Py_ssize_t at = 0; at < n; at += width) {
        ranks_of(rank, (const float *)h[1].view.buf + at, (uint32_t)width, a, b);
        prune_by((float *)h[0].view.buf + at, (const float *)h[1].view.buf + at, (const uint32_t *)h[2].view.buf + at,
                 rank, (int)width, density - epsilon / 2, epsilon, width > 1 ? (double)(width - 1) : 1.0, (float)scale);
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    PyMem_Free(room);
    release(h, 3);
    return result;
}

INLINE float sign_of(float x) { return (float)(x > 0) - (float)(x < 0); }

/* plus: a sum of zero elects plus, not nobody. weight: what an agreeing entry adds to the divisor of the mean, which is 1
   where that is 0. Written as products and sums, without a choice: so the loops are vectorised. */
typedef struct { int inputs, by_count, mean, plus; } Election;

CLONES static void elect_tile(float *restrict out, const float *const *x, const float *weight, Election e, size_t at, int n) {
    float total[TILE], agree[TILE];
    for (int i = 0; i < n; i++) { total[i] = 0; agree[i] = 0; out[i] = 0; }
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
        for (int i = 0; i < n; i++) {
            int yes = v[i] * total[i] > 0;
            out[i] += yes ? v[i] : 0.0f;
            agree[i] += w * (float)yes;
        }
    }
    if (e.mean) for (int i = 0; i < n; i++) out[i] = out[i] / (agree[i] + (float)(agree[i] == 0));
}

static PyObject *elect(PyObject *self, PyObject *args) {
    PyObject *out_obj, *inputs, *weights, *result = NULL;
    Py_ssize_t n;
    Election e;
    if (!PyArg_ParseTuple(args, "OO!npppO!", &out_obj, &PyTuple_Type, &inputs, &n, &e.by_count, &e.mean, &e.plus,
                          &PyTuple_Type, &weights)) return NULL;
    Py_ssize_t m = PyTuple_Size(inputs);
    if (m < 1 || m > MAX_INPUTS || n < 0) { PyErr_SetString(PyExc_ValueError, "elect: no inputs, or too many"); return NULL; }
    if (PyTuple_Size(weights) != m) { PyErr_SetString(PyExc_ValueError, "elect: not one weight an input"); return NULL; }
    e.inputs = (int)m;
    Held *h = PyMem_Calloc((size_t)m + 1, sizeof(Held));
    const float **x = PyMem_Calloc((size_t)m, sizeof(float *));
    float *weight = PyMem_Calloc((size_t)m, sizeof(float));
    if (!h || !x || !weight) { PyErr_NoMemory(); goto done; }
    if (hold(&h[m], out_obj, 1, n * 4) < 0) goto done;
    for (Py_ssize_t k = 0; k < m; k++) {
        if (hold(&h[k], PyTuple_GetItem(inputs, k), 0, n * 4) < 0) goto done;
        x[k] = h[k].view.buf;
        double w = PyFloat_AsDouble(PyTuple_GetItem(weights, k));
        if (w == -1.0 && PyErr_Occurred()) goto done;
        weight[k] = (float)w;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t at = 0; at < n; at += TILE)
        elect_tile((float *)h[m].view.buf + at, x, weight, e, (size_t)at, n - at < TILE ? (int)(n - at) : TILE);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    if (h) release(h, m + 1);
    PyMem_Free(h); PyMem_Free(x); PyMem_Free(weight);
    return result;
}

static PyMethodDef functions[] = {
    {"count", count, METH_VARARGS, "count(counts, x, n, first, bins) -> above"},
    {"philox", philox, METH_VARARGS, "philox(out, n, first, stream, key0, key1)"},
    {"keep", keep, METH_VARARGS, "keep(out, x, n, low, high)"},
    {"prune", prune, METH_VARARGS, "prune(out, x, words, rows, width, density, epsilon, scale)"},
    {"drop", drop, METH_VARARGS, "drop(out, x, words, n, least, scale)"},
    {"elect", elect, METH_VARARGS, "elect(out, inputs, n, by_count, mean, plus, weights)"},
    {"combine", combine, METH_VARARGS, "combine(out, dtype, inputs, dtypes, scales, n, scratch) -> flags"},
    {"lowrank", lowrank, METH_VARARGS, "lowrank(out, B, A, start, n, cols, rank, scale)"},
    {"pair", pair, METH_VARARGS, "pair(x, y, n) -> (dot, both_nonzero, opposite_signs)"},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "taskvec._kernels", NULL, -1, functions, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__kernels(void) { fill_tables(); return PyModule_Create(&module); }
