/* The streaming kernels as Python sees them: raw little-endian buffers in, numbers and flags out; the interpreter's lock is
 * released while they work. What is done to a tile is in _tiles.h, to a row in _rows.h. Limited API: one binary for CPython >= 3.11.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <unistd.h>
#include "_tiles.h"
#include "_rows.h"

/* ---- buffers ---------------------------------------------------------------------------------------------------------- */
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

/* ---- run: operations on tiles --------------------------------------------------------------------------------------------
 * A tile is TILE elements: its inputs are decoded, go through all operations while they are in the cache, and the last sum
 * is encoded into the output. Inputs lie in memory, or in files that are read through windows of scratch memory. */
typedef struct {
    const char *at;                                                  /* the next element, in memory or in the window */
    char *window;                                                    /* NULL for an input in memory                  */
    int fd;
    off_t offset;
    int dtype;
} Input;

typedef struct { int input, error; } Failure;                        /* which input could not be read, and errno or 0 */

/* The codes of operations.py, in its order; what is listed here and in _tiles.h is compared with that at import.     */
#define OPERATIONS(X) X(SUM) X(AROUND) X(KEEP) X(DROP) X(MASK) X(ELECT) X(COUNT) X(EQUAL) X(SIZE) X(PAIR) X(NONZERO) X(DOT)
enum { OPERATIONS(LISTED) CODES };
static const int NUMBERS[CODES] = {0, 3, 4, 5, 1, 3, 2, 2, 0, 0, 0, 0};    /* of each; sums and an election: one more a source */

typedef struct {
    int code, sources;
    int *from;                                                       /* k: the k-th input; ~k: the k-th result       */
    double *number;
    float *result;                                                   /* TILE numbers                                 */
    const float **x;                                                 /* an election's sources                        */
    float *weight;                                                   /* and what each adds to the mean's divisor     */
    int points, onto;                                                /* AROUND: the pivot and what it is taken from; */
    double mass;                                                     /* which source comes last, multiplied by what  */
    int tainted;                                                     /* whether the result has Inf or NaN              */
    int watched;                                                     /* whether an operation must know that             */
    int64_t kept, gone;                                              /* KEEP: how many of the equal ones still are   */
    double lane[LANES];
    int64_t both, against;
    Py_ssize_t spans;                                                /* EQUAL: how many                              */
    Held sink;
} Op;

typedef struct {
    Input *in;
    Op *op;
    int inputs, ops;
    uint64_t start;                                                  /* the position of the first element            */
    char *out;                                                       /* NULL where all that counts are sinks         */
    int dtype, sweep;
} Run;

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

/* A source's elements from `at` on: an input's window, or a result, which is the tile at hand. */
static const void *elements_of(const Run *r, int from, size_t at, int *dtype) {
    *dtype = from < 0 ? F32 : r->in[from].dtype;
    return from < 0 ? (const void *)r->op[~from].result : r->in[from].at + at * (size_t)WIDTH[*dtype];
}
static const void *tile_of(const Run *r, const Op *op, int k, size_t at) {
    int dtype;
    return elements_of(r, op->from[k], at, &dtype);
}

/* The sum of number * source, in order, in float64 if a source or what it becomes is float64. */
static int is_wide(const Run *r, const Op *op) {
    for (int k = 0; k < op->sources; k++) if (op->from[k] >= 0 && r->in[op->from[k]].dtype == F64) return 1;
    return 0;
}
static void sum32(const Run *r, const Op *op, size_t at, int n, float *acc) {
    int dtype;
    if (!op->sources) memset(acc, 0, (size_t)n * sizeof *acc);
    for (int k = 0; k < op->sources; k++) {
        const void *x = elements_of(r, op->from[k], at, &dtype);
        accumulate32(acc, x, dtype, op->number[k], k == 0, n);
    }
}
static void sum64(const Run *r, const Op *op, size_t at, int n, double *acc) {
    int dtype;
    if (!op->sources) memset(acc, 0, (size_t)n * sizeof *acc);
    for (int k = 0; k < op->sources; k++) {
        const void *x = elements_of(r, op->from[k], at, &dtype);
        accumulate64(acc, x, dtype, op->number[k], k == 0, n);
    }
}
/* The sum around its first source. Numbers that are needed as they are are decoded, unless they already are. Where it is not
   finite the sum as it stands decides. */
#define DEFINE_AROUND(NAME, REAL, BARE, ACCUMULATE, APART, ONTO, FINITE, MEND, SUM) \
static void NAME(const Run *r, const Op *op, size_t at, int n, REAL *acc) { \
    REAL room[TILE]; \
    int dtype; \
    const void *x = elements_of(r, op->from[0], at, &dtype); \
    const REAL *bare = dtype == BARE ? x : room; \
    if (dtype != BARE) ACCUMULATE(room, x, dtype, 1.0, 1, n); \
    const int terms = op->onto ? op->onto : op->sources; \
    for (int k = 1; k < terms; k++) { \
        x = elements_of(r, op->from[k], at, &dtype); \
        if (k < op->points) APART(acc, bare, x, dtype, op->number[k], k == 1, n); \
        else ACCUMULATE(acc, x, dtype, op->number[k], k == 1, n); \
    } \
    if (op->onto) { \
        x = elements_of(r, op->from[op->onto], at, &dtype); \
        bare = dtype == BARE ? x : room; \
        if (dtype != BARE) ACCUMULATE(room, x, dtype, 1.0, 1, n); \
    } \
    if (op->mass != 0) ONTO(acc, bare, op->mass, n); \
    if (FINITE(acc, n)) return; \
    REAL plain[TILE]; \
    SUM(r, op, at, n, plain); \
    MEND(acc, plain, n); \
}
DEFINE_AROUND(around32, float, F32, accumulate32, apart32, onto32, all_finite, mend32, sum32)
DEFINE_AROUND(around64, double, F64, accumulate64, apart64, onto64, all_finite64, mend64, sum64)

static void total32(const Run *r, const Op *op, size_t at, int n, float *acc) {
    if (op->code == AROUND) around32(r, op, at, n, acc); else sum32(r, op, at, n, acc);
}
static void total64(const Run *r, const Op *op, size_t at, int n, double *acc) {
    if (op->code == AROUND) around64(r, op, at, n, acc); else sum64(r, op, at, n, acc);
}
static int is_two(const Run *r, const Op *op, int one, int two) {
    int a, b;
    if (op->sources != 2) return 0;
    elements_of(r, op->from[0], 0, &a);
    elements_of(r, op->from[1], 0, &b);
    return a == one && b == two;
}
static int write_tile(const Run *r, const Op *op, size_t at, int n, void *out, int dtype) {
    double acc64[TILE];
    float *acc32 = (float *)acc64;
    const int two = op->code == AROUND && !op->onto;
    if (two && op->points == 1 && op->mass != 0 && dtype == BF16 && is_two(r, op, BF16, F32)) {
        const int flags = onto_bf16(out, tile_of(r, op, 0, at), tile_of(r, op, 1, at), (float)op->mass, (float)op->number[1], n);
        if (!(flags & NONFINITE)) return flags;
    }
    if (two && op->points == 2 && dtype == F32 && op->mass == 0 && is_two(r, op, BF16, BF16)) {
        const uint32_t top = apart_bf16(out, tile_of(r, op, 0, at), tile_of(r, op, 1, at), (float)op->number[1], n);
        if (top < 0x7f800000u) return 0;
    }
    if (dtype == F64 || is_wide(r, op)) { total64(r, op, at, n, acc64); return encode64(out, dtype, acc64, n); }
    if (dtype == F32) { total32(r, op, at, n, out); return flags_of(top_of(out, n), F32); }
    total32(r, op, at, n, acc32);
    return encode32(out, dtype, acc32, n);
}

static void operate(const Run *r, Op *op, size_t at, size_t done, int n) {
    const double *a = op->number;
    const float *x = op->code <= AROUND ? NULL : tile_of(r, op, 0, at);
    uint32_t *counts = (uint32_t *)op->sink.view.buf;
    switch (op->code) {
    case SUM: case AROUND:
        op->tainted = write_tile(r, op, at, n, op->result, F32) != 0;
        return;
    case COUNT: count_into(counts, x, n, (int64_t)a[0], (uint32_t)a[1]); return;
    case EQUAL: equal_into(counts + done / (size_t)a[1], counts + op->spans, x, n, (float)a[0]); return;
    case SIZE: sizes_into(op->lane, x, n); return;
    case NONZERO: nonzero_of((uint8_t *)op->sink.view.buf + done / 8, x, n); return;
    case DOT: dot_into(op->lane, x, tile_of(r, op, 1, at), n); return;
    case PAIR:
        dot_into(op->lane, x, tile_of(r, op, 1, at), n);
        signs_of(x, tile_of(r, op, 1, at), n, &op->both, &op->against);
        return;
    case KEEP:
        if (isinf(a[2]) && isinf(a[3])) keep_of(op->result, x, n, (float)a[0], (float)a[1]);
        else keep_first(op->result, x, n, (float)a[0], (float)a[1], &op->kept, &op->gone);
        break;
    case DROP:
        drop_tile(op->result, x, r->start + done, n, (Draws){(uint32_t)a[0], (uint32_t)a[1], (uint64_t)a[2]}, (uint32_t)a[3], (float)a[4]);
        break;
    case MASK: mask_of(op->result, x, (const uint8_t *)op->sink.view.buf + done / 8, n, (float)a[0]); break;
    case ELECT:
        for (int k = 0; k < op->sources; k++) op->x[k] = tile_of(r, op, k, at);
        elect_tile(op->result, op->x, op->weight, (Election){op->sources, a[0] != 0, a[1] != 0, a[2] != 0}, n);
        break;
    }
    op->tainted = op->watched && op->code != KEEP && !all_finite(op->result, n);
    for (int k = 0; k < op->sources; k++) {
        const float *source = tile_of(r, op, k, at);
        if (op->from[k] < 0 ? !r->op[~op->from[k]].tainted : all_finite(source, n)) continue;
        taint(op->result, source, n);
        op->tainted = 1;
    }
}

/* A sum of up to three bfloat16 inputs, from a cache line of the output on: where all lie alike, as arrays of one allocator do,
   no load straddles two lines, which halves the speed where their distances alias. A piece of a sum around a pivot that is not
   finite is done again, tile by tile. */
enum { LINE = 64, LONG = 1 << 20 };
static int sweep(const Run *r, uint16_t *out, size_t n) {
    const Op *sum = &r->op[r->ops - 1];
    const Input *in = r->in;
    const int m = sum->sources, *f = sum->from, around = sum->code == AROUND;
    const uint16_t *x = (const void *)in[f[0]].at, *y = (const void *)in[f[m > 1]].at, *z = (const void *)in[f[m > 2 ? 2 : 0]].at;
    float narrow[3] = {0};
    int flags = 0;
    for (int k = 0; k < m; k++) narrow[k] = (float)sum->number[k];
    if (around) narrow[0] = (float)sum->mass;
    size_t len = (size_t)(-(uintptr_t)out % LINE) / sizeof *out;
    for (size_t at = 0; at < n; at += len, len = LONG) {
        if (len > n - at) len = n - at;
        int of_piece = (around ? around_bf16 : sweep_bf16)(out + at, x + at, y + at, z + at, narrow, m, (int)len);
        if (around && of_piece & NONFINITE) {
            of_piece = 0;
            for (size_t i = at; i < at + len; i += TILE) of_piece |= write_tile(r, sum, i, at + len - i < TILE ? (int)(at + len - i) : TILE, out + i, BF16);
        }
        flags |= of_piece;
    }
    return flags;
}

/* The elements of a window, which begin `done` elements after the first of all. */
static int run_window(const Run *r, size_t done, size_t n) {
    const int ops = r->ops - (r->out != NULL), wide = r->out ? WIDTH[r->dtype] : 0;
    const Op *last = &r->op[r->ops - 1];
    int flags = 0;
    if (r->sweep) return sweep(r, (uint16_t *)r->out + done, n);
    for (size_t at = 0; at < n; at += TILE) {
        int len = n - at < TILE ? (int)(n - at) : TILE;
        char *to = r->out ? r->out + (done + at) * (size_t)wide : NULL;
        for (int k = 0; k < ops; k++) operate(r, &r->op[k], at, done + at, len);
        if (to) flags |= write_tile(r, last, at, len, to, r->dtype);
    }
    return flags;
}

static int run_all(const Run *r, size_t n, size_t window, Failure *failure) {
    int flags = 0;
    for (size_t at = 0; at < n; at += window) {
        size_t len = n - at < window ? n - at : window;
        for (int k = 0; k < r->inputs; k++)
            if (r->in[k].window && (failure->error = fill(&r->in[k], len * (size_t)WIDTH[r->in[k].dtype]))) {
                failure->input = k;
                return 0;
            }
        flags |= run_window(r, at, len);
        for (int k = 0; k < r->inputs; k++) if (!r->in[k].window) r->in[k].at += len * (size_t)WIDTH[r->in[k].dtype];
    }
    for (int k = 0; k < r->ops; k++) {
        double *sink = r->op[k].sink.view.buf;
        if (r->op[k].code == SIZE || r->op[k].code == DOT || r->op[k].code == PAIR) sink[0] = sum_of(r->op[k].lane);
        if (r->op[k].code == PAIR) { sink[1] = (double)r->op[k].both; sink[2] = (double)r->op[k].against; }
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

static int refuse(const char *what) { PyErr_SetString(PyExc_ValueError, what); return -1; }

/* One operation (code, sources, numbers, sink or None): the k-th, of which results below k are known. `pool` is its memory. */
static int take_op(Run *r, int k, PyObject *o, Py_ssize_t n, char **pool) {
    Op *op = &r->op[k];
    PyObject *from, *numbers, *sink;
    if (!PyArg_ParseTuple(o, "iO!O!O", &op->code, &PyTuple_Type, &from, &PyTuple_Type, &numbers, &sink)) return -1;
    if (op->code < 0 || op->code >= CODES) return refuse("run: unknown operation");
    op->sources = (int)PyTuple_Size(from);
    const int many = op->code <= AROUND || op->code == ELECT, count = NUMBERS[op->code] + (many ? op->sources : 0);
    if (PyTuple_Size(numbers) != count || (op->code != SUM && op->sources < 1) ||
        (!many && op->sources != 1 + (op->code == PAIR || op->code == DOT)))
        return refuse("run: wrong number of sources or numbers");
    op->x = (const float **)*pool; *pool += (size_t)op->sources * sizeof *op->x;
    op->number = (double *)*pool; *pool += (size_t)count * sizeof *op->number;
    op->weight = (float *)*pool; *pool += (size_t)op->sources * sizeof *op->weight;
    op->from = (int *)*pool; *pool += (size_t)op->sources * sizeof *op->from;
    for (int i = 0; i < op->sources; i++) {
        long at = PyLong_AsLong(PyTuple_GetItem(from, i));
        if (at == -1 && PyErr_Occurred()) return -1;
        const int known = at < 0 ? ~at < k && r->op[~at].code <= ELECT
                                 : at < r->inputs && (op->code <= AROUND || r->in[at].dtype == F32);
        if (!known) return refuse("run: a source that is no input and no earlier result");
        op->from[i] = (int)at;
        if (at < 0 && op->code > AROUND && op->code <= ELECT) r->op[~at].watched = 1;
    }
    for (int i = 0; i < count; i++) {
        op->number[i] = PyFloat_AsDouble(PyTuple_GetItem(numbers, i));
        if (op->number[i] == -1.0 && PyErr_Occurred()) return -1;
    }
    const double *a = op->number;
    if (op->code == AROUND) {
        op->points = a[0] >= 1 && a[0] <= op->sources ? (int)a[0] : 0;
        op->onto = a[1] == 0 ? 0 : a[1] == op->sources - 1 ? (int)a[1] : -1;
        if (!op->points || op->onto < 0 || (op->onto && op->onto < op->points) || op->sources < (op->onto ? 3 : 2))
            return refuse("run: no such sum around a pivot");
        op->mass = a[2];
        op->number += 3;
    }
    if (op->code == ELECT) for (int i = 0; i < op->sources; i++) op->weight[i] = (float)a[3 + i];
    if (op->code == KEEP) {
        op->kept = a[2] < 0x1p62 ? (int64_t)a[2] : INT64_MAX;
        op->gone = a[3] < 0x1p62 ? (int64_t)a[3] : INT64_MAX;
    }
    if (op->code == MASK) return hold(&op->sink, sink, 0, (n + 7) / 8);
    if (op->code <= ELECT) return 0;
    Py_ssize_t need = op->code == NONZERO ? (n + 7) / 8 : op->code == PAIR ? 24 : 8;
    if (op->code == COUNT) {
        if (a[1] < 1 || a[0] + a[1] > 1 << 15) return refuse("run: bad range to count in");
        need = 4 * ((a[0] < 0 ? 1 << 15 : (Py_ssize_t)a[1] << 16) + 1);
    } else if (op->code == EQUAL) {
        Py_ssize_t span = (Py_ssize_t)a[1];
        if (span < TILE || span % TILE) return refuse("run: a span must be a multiple of a tile");
        op->spans = (n + span - 1) / span;
        need = 4 * (op->spans + 1);
    }
    return hold(&op->sink, sink, 1, need);
}

/* Bytes that the arrays of all operations need, or -1. */
static Py_ssize_t pool_bytes(PyObject *ops) {
    Py_ssize_t total = 0;
    for (Py_ssize_t k = 0; k < PyTuple_Size(ops); k++) {
        PyObject *o = PyTuple_GetItem(ops, k);
        if (!PyTuple_Check(o) || PyTuple_Size(o) != 4 || !PyTuple_Check(PyTuple_GetItem(o, 1)) ||
            !PyTuple_Check(PyTuple_GetItem(o, 2)))
            return refuse("run: an operation is (code, sources, numbers, sink)");
        Py_ssize_t sources = PyTuple_Size(PyTuple_GetItem(o, 1)), numbers = PyTuple_Size(PyTuple_GetItem(o, 2));
        if (sources > MAX_INPUTS) return refuse("run: too many sources");
        total += 16 * sources + 8 * numbers + 16;
    }
    return total;
}

/* Windows of equal numbers of elements for every file, in what the results leave of the scratch memory; -1 if too small. */
static Py_ssize_t window_of(const Run *r, PyObject *inputs, Py_ssize_t n, Py_ssize_t room) {
    Py_ssize_t bytes = 0;
    for (int k = 0; k < r->inputs; k++) if (PyTuple_Check(PyTuple_GetItem(inputs, k))) bytes += WIDTH[r->in[k].dtype];
    if (!bytes) return room < 0 ? -1 : n;
    Py_ssize_t window = room < 0 ? 0 : room / bytes / TILE * TILE;
    return window || !n ? window : -1;
}

static PyObject *run(PyObject *self, PyObject *args) {
    PyObject *out_obj, *inputs, *codes, *ops, *scratch, *result = NULL;
    Py_ssize_t n, pool_size;
    unsigned long long start;
    Run r = {0};
    if (!PyArg_ParseTuple(args, "OiO!O!O!KnO", &out_obj, &r.dtype, &PyTuple_Type, &inputs, &PyTuple_Type, &codes,
                          &PyTuple_Type, &ops, &start, &n, &scratch)) return NULL;
    Py_ssize_t m = PyTuple_Size(inputs), count = PyTuple_Size(ops);
    if (m > MAX_INPUTS || PyTuple_Size(codes) != m || count < 1 || count > 4 * MAX_INPUTS || n < 0 || r.dtype < 0 ||
        r.dtype >= DTYPES) {
        PyErr_SetString(PyExc_ValueError, "run: inputs and dtypes must be tuples of one length, and there must be operations");
        return NULL;
    }
    if ((pool_size = pool_bytes(ops)) < 0) return NULL;
    Held *held = PyMem_Calloc((size_t)m + 2, sizeof(Held));
    char *pool = PyMem_Malloc((size_t)pool_size + 1), *free_pool = pool;
    r.in = PyMem_Calloc((size_t)m + 1, sizeof(Input));
    r.op = PyMem_Calloc((size_t)count, sizeof(Op));
    r.start = start;
    if (!held || !pool || !r.in || !r.op) { PyErr_NoMemory(); goto done; }
    if (out_obj != Py_None && hold(&held[m], out_obj, 1, n * WIDTH[r.dtype]) < 0) goto done;
    if (hold(&held[m + 1], scratch, 1, 0) < 0) goto done;
    r.out = out_obj == Py_None ? NULL : held[m].view.buf;
    r.inputs = (int)m;
    for (Py_ssize_t k = 0; k < m; k++) {
        long code = PyLong_AsLong(PyTuple_GetItem(codes, k));
        if (PyErr_Occurred()) goto done;
        if (code < 0 || code >= DTYPES) { refuse("run: unknown dtype code"); goto done; }
        r.in[k].dtype = (int)code;
    }
    char *free_scratch = held[m + 1].view.buf;
    Py_ssize_t results = 0;
    for (r.ops = 0; r.ops < (int)count;) {
        Op *op = &r.op[r.ops];
        if (take_op(&r, r.ops, PyTuple_GetItem(ops, r.ops), n, &free_pool) < 0) { r.ops++; goto done; }
        r.ops++;
        if (op->code > ELECT || (r.out && r.ops == (int)count)) continue;
        op->result = (float *)(free_scratch + results);
        results += TILE * 4;
    }
    if (r.out && r.op[count - 1].code > AROUND) { refuse("run: what is written must be a sum"); goto done; }
    Py_ssize_t window = window_of(&r, inputs, n, held[m + 1].view.len - results);
    if (window < 0) { refuse("run: the scratch memory is too small"); goto done; }
    free_scratch += results;
    for (int k = 0; k < r.inputs; k++) {
        if (take_input(&r.in[k], &held[k], PyTuple_GetItem(inputs, k), n, free_scratch) < 0) goto done;
        if (r.in[k].window) free_scratch += window * WIDTH[r.in[k].dtype];
    }
    const Op *last = &r.op[count - 1];
    r.sweep = r.out && count == 1 && r.dtype == BF16 && last->sources >= 1 && last->sources <= 3;
    if (last->code == AROUND) r.sweep &= last->points == last->sources && !last->onto && last->mass != 0;
    for (int k = 0; r.sweep && k < last->sources; k++) r.sweep &= r.in[last->from[k]].dtype == BF16;
    int flags;
    Failure failure = {0, 0};
    Py_BEGIN_ALLOW_THREADS
    flags = run_all(&r, (size_t)n, (size_t)window, &failure);
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
    for (int k = 0; k < r.ops; k++) release(&r.op[k].sink, 1);
    PyMem_Free(held); PyMem_Free(pool); PyMem_Free(r.in); PyMem_Free(r.op);
    return result;
}

/* ---- rows of scale * B @ A ---------------------------------------------------------------------------------------- */
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

/* ---- what methods that see whole rows need ----------------------------------------------------------------------------- */
static PyObject *philox(PyObject *self, PyObject *args) {
    PyObject *out_obj, *result = NULL;
    Py_ssize_t n;
    unsigned long long first, stream;
    unsigned int k0, k1;
    if (!PyArg_ParseTuple(args, "OnKKII", &out_obj, &n, &first, &stream, &k0, &k1)) return NULL;
    Held h[1] = {0};
    if (n < 0 || hold(&h[0], out_obj, 1, n * 16) < 0) goto done;
    Py_BEGIN_ALLOW_THREADS
    philox_of(h[0].view.buf, first, (uint64_t)n, (Draws){k0, k1, stream});
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    release(h, 1);
    return result;
}

static double size_of(const float *x, int n) {
    double lane[LANES] = {0};
    sizes_into(lane, x, n);
    return sum_of(lane);
}

/* Row by row. Any of out, bits (a bit an entry, whether it is kept) and sums (of |x|, and of |out|) may be None. */
static PyObject *prune(PyObject *self, PyObject *args) {
    PyObject *out_obj, *x_obj, *bits_obj, *sums_obj, *result = NULL;
    Py_ssize_t rows, width;
    unsigned long long start, stream;
    unsigned int k0, k1;
    double density, epsilon, scale;
    if (!PyArg_ParseTuple(args, "OOnnKKIIdddOO", &out_obj, &x_obj, &rows, &width, &start, &stream, &k0, &k1, &density, &epsilon,
                          &scale, &bits_obj, &sums_obj))
        return NULL;
    Held h[4] = {0};
    uint64_t *room = NULL;
    if (rows < 0 || width < 0 || width > INT32_MAX || (bits_obj != Py_None && rows > 1 && width % 8)) {
        PyErr_SetString(PyExc_ValueError, "prune: bad size");
        goto done;
    }
    const Py_ssize_t n = rows * width;
    const double last = width > 1 ? (double)(width - 1) : 1.0;
    const Prune how = {density - epsilon / 2, epsilon, last, (float)scale, {k0, k1, stream}};
    if (hold(&h[0], x_obj, 0, n * 4) < 0 || (out_obj != Py_None && hold(&h[1], out_obj, 1, n * 4) < 0) ||
        (bits_obj != Py_None && hold(&h[2], bits_obj, 1, (n + 7) / 8) < 0) ||
        (sums_obj != Py_None && hold(&h[3], sums_obj, 1, 2 * sizeof(double)) < 0)) goto done;
    if (!(room = PyMem_Malloc(room_for_rows((int)width) + (size_t)width * 4))) { PyErr_NoMemory(); goto done; }
    Py_BEGIN_ALLOW_THREADS
    const float *x = h[0].view.buf;
    float *out = h[1].view.buf, *row = (float *)((char *)room + room_for_rows((int)width));
    uint8_t *bits = h[2].view.buf;
    double *sums = h[3].view.buf;
    for (Py_ssize_t at = 0; at < n; at += width) {
        float *made = out ? out + at : row;
        prune_row(made, x + at, start + (uint64_t)at, (int)width, &how, room);
        if (bits) nonzero_of(bits + at / 8, made, (int)width);
        if (sums) { sums[0] += size_of(x + at, (int)width); sums[1] += size_of(made, (int)width); }
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    PyMem_Free(room);
    release(h, 4);
    return result;
}

static PyMethodDef functions[] = {
    {"run", run, METH_VARARGS, "run(out, dtype, inputs, dtypes, ops, start, n, scratch) -> flags"},
    {"lowrank", lowrank, METH_VARARGS, "lowrank(out, B, A, start, n, cols, rank, scale)"},
    {"philox", philox, METH_VARARGS, "philox(out, n, first, stream, key0, key1)"},
    {"prune", prune, METH_VARARGS, "prune(out, x, rows, width, start, stream, k0, k1, density, epsilon, scale, bits, sums)"},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "taskvec.numbers._kernels", NULL, -1, functions, NULL, NULL, NULL, NULL};

/* What the compiler cannot choose by itself: what is written with intrinsics. */
static void choose_paths(void) {
#ifdef LANES64
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) {
        philox_group = philox_avx512;
        within_of = within_avx512;
        between_of = between_avx512;
    } else if (__builtin_cpu_supports("avx2")) philox_group = philox_avx2;
#endif
}
/* Names in the order of their codes, and sizes: compiled.py refuses a binary that was built from other sources.       */
static int say_layout(PyObject *made) {
    return PyModule_AddStringConstant(made, "OPERATIONS", OPERATIONS(NAMED)) ||
           PyModule_AddStringConstant(made, "DTYPES", ARITHMETIC(NAMED)) ||
           PyModule_AddIntConstant(made, "TILE", TILE) || PyModule_AddIntConstant(made, "MOST_INPUTS", MAX_INPUTS) ||
           PyModule_AddIntConstant(made, "NONFINITE", NONFINITE) || PyModule_AddIntConstant(made, "OVERFLOWED", OVERFLOWED);
}
PyMODINIT_FUNC PyInit__kernels(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && say_layout(made)) Py_CLEAR(made);
    fill_tables();
    choose_paths();
    return made;
}
