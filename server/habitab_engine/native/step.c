/* A few tokens through the whole network in one call: what `step.py` and `few.py` compute, without anything between.
 *
 * At one token a layer's product takes some ten microseconds, so that dispatch, small operations and the meeting of
 * threads cost as much as reading the weights does. Here each weight is read once, as it is stored (int8 rows), for up
 * to MOST tokens, against activations of 15 bits; threads take pieces of a phase as they come, so that one which the
 * system keeps away delays nobody. No dependencies; compiled once for each instruction set (see build.py).
 *
 * Shapes as in attention.py: M tokens, H query heads, G key/value heads, D head width. A document's KV cache is float16
 * [layers, B, 2G, D * BLOCK]: of each block first the keys of the G heads as [D, BLOCK], then values as [BLOCK, D].
 */

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512VNNI__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum {
    MOST = 8,             /* tokens of a call */
    BLOCK = 128,          /* positions of a block of the KV cache */
    MOST_HEADS = 16,      /* query heads of a group */
    MOST_VECTORS = 128 / LANES, /* of a head */
    MOST_THREADS = 64,
    ALIGN = 64,           /* bytes of a cache line */
    RUN = 1024,           /* products that are summed before they become a float */
    PIECE_BYTES = 32768,  /* of weights: what a thread takes at once */
    AHEAD = 8192,         /* bytes that are asked for before they are needed; sweeps from 2 to 20 kB were flat from here */
    SPINS = 40000,        /* looks for work before a thread sleeps: two milliseconds, what is between two tokens */
    ROWS = 2,             /* of weights that are multiplied together */
    TILE = 4, SHARED = 3, /* vectors and heads whose sums are kept in registers together */
};
/* Activations are whole numbers up to LARGEST: 128 * LARGEST * RUN fits in 31 bits. */
static const float LARGEST = 16383.0f;
/* Adding and taking away 1.5 * 2^23 rounds a float to a whole number. */
static const float ROUND = 12582912.0f;

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(2)));
#if defined(__aarch64__)
typedef __fp16 half;
typedef half halves __attribute__((vector_size(2 * LANES), aligned(2)));
#else
typedef uint16_t half;
#endif

/* [n, k] int8 with a scale a row; rows are `stride` bytes apart, zero behind k. `gain` [k] and `bias` [n] may be null. */
typedef struct {
    const int8_t *rows;
    const float *scale, *gain, *bias;
    int32_t n, k, stride;
} Layer;

typedef struct {
    Layer qkv, output, gate_up, down;
} Block;

typedef struct {
    int32_t layers, width, heads, groups, size, inner;
    float eps; /* belongs to the sum of squares */
    const Block *blocks;
    Layer head;
    const float *turns; /* [positions, D / 2] complex */
} Network;

/* What the pieces of a phase need; `next` is the layer of the product after it. */
typedef struct {
    enum { ATTEND, SET, ADD } kind;
    const Layer *layer, *next;
    float *y;             /* [M, n] */
    const half *memory;   /* one layer of the KV cache */
} Phase;

typedef struct State State;

/* The pieces of one thread. `ticket` holds the number of the phase, the end of these pieces and the next one to be taken,
 * all in one word: a thread that comes late can never take a piece of another phase than it thinks. */
typedef struct {
    _Alignas(ALIGN) _Atomic uint64_t ticket;
    State *state;
    pthread_t thread;
    int index, made;
} Share;

struct State {
    Network net;
    int threads, stride;            /* stride: of a row of `whole` */
    int m, position;
    float *x, *y, *joined, *parts;  /* [M, width], the caller's; [M, widest]; [M, H * D]; see part_of */
    int16_t *whole;                 /* activations as whole numbers, [M, stride], and what one of them means */
    float step[MOST];
    Phase phase;
    uint64_t number;                /* of phases so far */
    _Atomic int done, awake, ending;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    Share shares[MOST_THREADS];
};

#define END_SHIFT 20
#define PHASE_SHIFT 40
#define LOW(word) ((word) & ((1u << END_SHIFT) - 1))

static inline void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- numbers ---- */

static inline floats all(float value) { return (floats){0} + value; }

static inline float sum(floats v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

static inline float largest(floats v) {
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

static inline floats load(const float *at) { return *(const floats *)at; }
static inline void store(float *at, floats v) { *(floats *)at = v; }

static inline floats load_half(const half *at) {
#if defined(__AVX512VNNI__)
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
#elif defined(__AVX2__)
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
#else
    return __builtin_convertvector(*(const halves *)at, floats);
#endif
}

static inline half to_half(float value) {
#if defined(__aarch64__)
    return value;
#else
    return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
#endif
}

static inline floats larger(floats a, floats b) {
    const ints is = a > b;
    return (floats)(((ints)a & is) | ((ints)b & ~is));
}

/* e^x to two units in the last place: 2^n times a polynomial in the rest (Cephes' coefficients). */
static inline floats exponential(floats x) {
    x = -larger(-larger(x, all(-87.0f)), all(-88.0f));
    const floats shifted = x * 1.44269504f + ROUND, n = shifted - ROUND;
    floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats p = ((((r * 1.9875691500e-4f + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
                1.6666665459e-1f) * r + 5.0000001201e-1f;
    const ints power = ((ints)shifted - (ints)all(ROUND)) << 23;
    return (floats)((ints)(p * r * r + r + 1.0f) + power);
}

/* The most of |v[i] * by[i]|, `by` null for ones. n is a multiple of LANES. */
static float magnitude(const float *v, const float *by, int n) {
    floats most = all(0);
    for (int i = 0; i < n; i += LANES) {
        floats a = by ? load(v + i) * load(by + i) : load(v + i);
        most = larger(most, larger(a, -a));
    }
    return largest(most);
}

/* One token's activations, times the layer's gain, as whole numbers for its product. */
static void make_whole(State *s, const Layer *layer, const float *v, int token) {
    int16_t *out = s->whole + (size_t)token * s->stride;
    const float most = magnitude(v, layer->gain, layer->k);
    const float by = most > 0 ? LARGEST / most : 0;
    for (int i = 0; i < layer->k; i += LANES) {
        floats a = load(v + i) * by;
        if (layer->gain) a *= load(layer->gain + i);
        const ints rounded = (ints)(a + ROUND) - (ints)all(ROUND);
        *(shorts *)(out + i) = __builtin_convertvector(rounded, shorts);
    }
    s->step[token] = most / LARGEST;
}

/* SwiGLU (arXiv 2002.05202): the first n become silu(first) * second. */
static void gate(float *v, int n) {
    for (int i = 0; i < n; i += LANES) {
        const floats x = load(v + i);
        store(v + i, x / (1.0f + exponential(-x)) * load(v + n + i));
    }
}

/* RMSNorm (arXiv 1910.07467, eq. 4) in front of a layer. */
static void make_normed(State *s, const Layer *layer) {
    const int width = s->net.width;
    for (int token = 0; token < s->m; token++) {
        const float *v = s->x + (size_t)token * width;
        floats squares = all(0);
        for (int i = 0; i < width; i += LANES) squares += load(v + i) * load(v + i);
        make_whole(s, layer, v, token);
        s->step[token] /= sqrtf(sum(squares) + s->net.eps);
    }
}

/* ---- products ---- */

/* Dot products of `r` rows with m tokens, [r, MOST]; both are constants where this is inlined. Several rows share what is
 * read of the activations. */
static inline __attribute__((always_inline)) void dots(const int8_t *row, const int16_t *x, int k, int stride, int r,
                                                       int m, float (*out)[MOST]) {
    for (int i = 0; i < r; i++)
        for (int j = 0; j < m; j++) out[i][j] = 0;
    for (int begin = 0; begin < k; begin += RUN) {
        const int end = k - begin < RUN ? k : begin + RUN;
#if defined(__AVX512VNNI__)
        __m512i total[ROWS][MOST];
        for (int i = 0; i < r; i++)
            for (int j = 0; j < m; j++) total[i][j] = _mm512_setzero_si512();
        for (int at = begin; at < end; at += 32) {
            __m512i w[ROWS];
            for (int i = 0; i < r; i++)
                w[i] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(row + (size_t)i * k + at)));
            for (int j = 0; j < m; j++) {
                const __m512i a = _mm512_loadu_si512(x + (size_t)j * stride + at);
                for (int i = 0; i < r; i++) total[i][j] = _mm512_dpwssd_epi32(total[i][j], w[i], a);
            }
        }
        for (int i = 0; i < r; i++)
            for (int j = 0; j < m; j++) out[i][j] += (float)_mm512_reduce_add_epi32(total[i][j]);
#elif defined(__AVX2__)
        for (int i = 0; i < r; i++) {
            __m256i total[MOST];
            for (int j = 0; j < m; j++) total[j] = _mm256_setzero_si256();
            for (int at = begin; at < end; at += 16) {
                const __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(row + (size_t)i * k + at)));
                for (int j = 0; j < m; j++) {
                    const __m256i a = _mm256_loadu_si256((const __m256i *)(x + (size_t)j * stride + at));
                    total[j] = _mm256_add_epi32(total[j], _mm256_madd_epi16(w, a));
                }
            }
            for (int j = 0; j < m; j++) {
                __m128i half = _mm256_extracti128_si256(total[j], 1);
                half = _mm_add_epi32(_mm256_castsi256_si128(total[j]), half);
                half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
                out[i][j] += (float)_mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
            }
        }
#else
        for (int i = 0; i < r; i++)
            for (int j = 0; j < m; j++) {
                int32_t total = 0;
                for (int at = begin; at < end; at++) total += (int32_t)row[(size_t)i * k + at] * x[(size_t)j * stride + at];
                out[i][j] += (float)total;
            }
#endif
    }
}

/* Rows of a piece. */
static inline int piece_rows(const Layer *layer) {
    const int rows = PIECE_BYTES / layer->stride;
    return rows > 1 ? rows : 1;
}

static inline int pieces_of(const Layer *layer) { return (layer->n + piece_rows(layer) - 1) / piece_rows(layer); }

/* The dot products of `rows` rows from row n on, ROWS or 1, with all tokens. */
static inline void dots_of(const State *s, const Layer *layer, int n, int rows, float (*out)[MOST]) {
    const int8_t *row = layer->rows + (size_t)n * layer->stride;
    for (int i = 0; i < rows * layer->stride; i += ALIGN) __builtin_prefetch(row + AHEAD + i);
    switch (rows * (MOST + 1) + s->m) {
#define OF(r, m) case (r) * (MOST + 1) + (m): dots(row, s->whole, layer->stride, s->stride, r, m, out); break;
#define ALL(r) OF(r, 1) OF(r, 2) OF(r, 3) OF(r, 4) OF(r, 5) OF(r, 6) OF(r, 7) OF(r, 8)
        ALL(1) ALL(ROWS)
#undef ALL
#undef OF
    }
}

static void product(const State *s, const Phase *phase, int piece) {
    const Layer *layer = phase->layer;
    const int each = piece_rows(layer), begin = piece * each;
    const int end = begin + each < layer->n ? begin + each : layer->n;
    float out[ROWS][MOST];
    for (int n = begin, rows; n < end; n += rows) {
        rows = n + ROWS <= end ? ROWS : 1;
        dots_of(s, layer, n, rows, out);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < s->m; j++) {
                float *y = phase->y + (size_t)j * layer->n + n + i;
                const float found = out[i][j] * s->step[j] * layer->scale[n + i] + (layer->bias ? layer->bias[n + i] : 0);
                *y = phase->kind == ADD ? *y + found : found;
            }
    }
}

/* ---- attention ---- */

/* What one block gave one head of one token: [D], the largest score, the sum of weights. */
static inline float *part_of(const State *s, int block, int token, int head) {
    return s->parts + (((size_t)block * MOST + token) * s->net.heads + head) * (s->net.size + LANES);
}

/* Turn the queries and keys of all tokens (RoPE, arXiv 2104.09864) and put keys and values into the cache. */
static void remember(const State *s, half *memory) {
    const Network *net = &s->net;
    const int d = net->size, g = net->groups, turned = net->heads + g, wide = (turned + g) * d;
    for (int token = 0; token < s->m; token++) {
        const int position = s->position + token, at = position % BLOCK;
        const float *turns = net->turns + (size_t)position * d;
        float *heads = s->y + (size_t)token * wide;
        for (int head = 0; head < turned; head++)
            for (int i = 0; i < d; i += 2) {
                float *v = heads + head * d + i;
                const float re = v[0] * turns[i] - v[1] * turns[i + 1];
                v[1] = v[0] * turns[i + 1] + v[1] * turns[i];
                v[0] = re;
            }
        half *block = memory + (size_t)(position / BLOCK) * 2 * g * d * BLOCK;
        for (int i = 0; i < g * d; i++) block[(size_t)i * BLOCK + at] = to_half(heads[net->heads * d + i]);
        for (int i = 0; i < g * d; i++)
            block[((size_t)(g + i / d) * BLOCK + at) * d + i % d] = to_half(heads[turned * d + i]);
    }
}

/* Weighted sums of the same rows, one for each of `heads` lists of weights: all arrays have a row a head, so many elements
 * `apart`. `vectors` and `heads` are constants where this is inlined, so the sums stay in registers. */
static inline __attribute__((always_inline)) void weigh(const float *weights, size_t weights_apart, const half *from,
                                                        size_t apart, int rows, int vectors, int heads, float *to,
                                                        size_t to_apart) {
    floats sums[SHARED][TILE];
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < vectors; j++) sums[h][j] = all(0);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) {
            const floats v = load_half(from + i * apart + j * LANES);
            for (int h = 0; h < heads; h++) sums[h][j] += weights[h * weights_apart + i] * v;
        }
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < vectors; j++) store(to + h * to_apart + j * LANES, sums[h][j]);
}

/* The same for `n` columns, a whole number of vectors, and any number of heads. */
static void weighted(const float *weights, size_t weights_apart, const half *from, size_t apart, int rows, int n,
                     int heads, float *to, size_t to_apart) {
    for (int h = 0; h < heads; h += SHARED) {
        const float *w = weights + h * weights_apart;
        const int some = heads - h < SHARED ? heads - h : SHARED;
        for (int i = 0; i < n;) {
            float *out = to + h * to_apart + i;
            const int vectors = i + TILE * LANES <= n ? TILE : 1;
            switch (vectors * (SHARED + 1) + some) {
#define OF(v, h) case (v) * (SHARED + 1) + (h): weigh(w, weights_apart, from + i, apart, rows, v, h, out, to_apart); break;
                OF(TILE, 1) OF(TILE, 2) OF(TILE, 3) OF(1, 1) OF(1, 2) OF(1, 3)
#undef OF
            }
            i += vectors * LANES;
        }
    }
}

/* Scores to weights (arXiv 1706.03762, eq. 1), those behind `count` to nothing; the largest score and the sum go to
 * `found`. */
static void soften(float *scores, int count, float scale, float *found) {
    floats most = all(-INFINITY), total = all(0);
    for (int t = count; t < BLOCK; t++) scores[t] = -INFINITY;
    for (int t = 0; t < BLOCK; t += LANES) most = larger(most, load(scores + t));
    const float top = largest(most);
    for (int t = 0; t < count; t += LANES) {
        const floats p = exponential((load(scores + t) - top) * scale);
        store(scores + t, p);
        total += p;
    }
    found[0] = top * scale, found[1] = sum(total);
}

/* What all query heads of a group get from one block of the cache: for each of them and each token its mean of values,
 * then the largest score and the sum of the weights, not yet divided by it (arXiv 2205.14135, section 3.1). */
static void attend(State *s, const Phase *phase, int piece) {
    const Network *net = &s->net;
    const int d = net->size, g = net->groups, heads = net->heads / g, block = piece / g, group = piece % g;
    const half *keys = phase->memory + ((size_t)block * 2 * g + group) * d * BLOCK;
    const half *values = keys + (size_t)g * d * BLOCK;
    float scores[MOST_HEADS * BLOCK];
    for (int token = 0; token < s->m; token++) {
        const int seen = s->position + token + 1 - block * BLOCK, count = seen < BLOCK ? seen : BLOCK;
        if (count <= 0) continue; /* join() does not ask for it */
        const float *query = phase->y + ((size_t)token * (net->heads + 2 * g) + group * heads) * d;
        float *part = part_of(s, block, token, group * heads);
        weighted(query, d, keys, BLOCK, d, BLOCK, heads, scores, BLOCK);
        for (int h = 0; h < heads; h++)
            soften(scores + h * BLOCK, count, 1.0f / sqrtf((float)d), part + h * (d + LANES) + d);
        weighted(scores, BLOCK, values, d, count, d, heads, part, d + LANES);
    }
}

/* Put the blocks' parts together: [M, H * D] to `out`. */
static void join(State *s, float *out) {
    const Network *net = &s->net;
    const int d = net->size;
    for (int token = 0; token < s->m; token++)
        for (int head = 0; head < net->heads; head++) {
            const int blocks = (s->position + token) / BLOCK + 1;
            float top = -INFINITY, total = 0;
            for (int block = 0; block < blocks; block++) top = fmaxf(top, part_of(s, block, token, head)[d]);
            floats mean[MOST_VECTORS];
            for (int i = 0; i < d / LANES; i++) mean[i] = all(0);
            for (int block = 0; block < blocks; block++) {
                const float *part = part_of(s, block, token, head), weight = expf(part[d] - top);
                total += weight * part[d + 1];
                for (int i = 0; i < d / LANES; i++) mean[i] += weight * load(part + i * LANES);
            }
            for (int i = 0; i < d / LANES; i++) store(out + (token * net->heads + head) * d + i * LANES, mean[i] / total);
        }
}

/* ---- threads ---- */

/* Ask for the beginning of a thread's share in the next product, which is not in its cache yet. */
static void prefetch(const State *s, int own) {
    const Layer *next = s->phase.next;
    const int8_t *at = next->rows + (size_t)(pieces_of(next) * own / s->threads) * piece_rows(next) * next->stride;
    for (int i = 0; i < AHEAD; i += ALIGN) __builtin_prefetch(at + i);
}

/* Take one piece of a thread's share; 0 where there is none. */
static int take_from(State *s, int share) {
    _Atomic uint64_t *ticket = &s->shares[share].ticket;
    const uint64_t now = atomic_load_explicit(ticket, memory_order_acquire);
    if (LOW(now) >= LOW(now >> END_SHIFT)) return 0;
    const uint64_t mine = atomic_fetch_add_explicit(ticket, 1, memory_order_acq_rel);
    if (LOW(mine) >= LOW(mine >> END_SHIFT)) return 0;
    /* The phase cannot end before this piece is done, so what it says stays. */
    if (s->phase.kind == ATTEND) attend(s, &s->phase, (int)LOW(mine));
    else product(s, &s->phase, (int)LOW(mine));
    if (LOW(mine) + 1 == LOW(mine >> END_SHIFT)) prefetch(s, share);
    atomic_fetch_add_explicit(&s->done, 1, memory_order_release);
    return 1;
}

/* A thread's own pieces first, the same in every step, since they may still be in its core's cache; then those of
 * a thread that is behind. */
static int take(State *s, int own) {
    int taken = 0;
    while (take_from(s, own)) taken = 1;
    for (int other = 0; other < s->threads; other++)
        while (other != own && take_from(s, other)) taken = 1;
    return taken;
}

/* Do a phase: its pieces are shared out, and it ends when all are done. */
static void run(State *s, Phase phase, int pieces) {
    s->phase = phase;
    atomic_store_explicit(&s->done, 0, memory_order_relaxed);
    s->number++;
    for (int i = 0; i < s->threads; i++) {
        const uint64_t begin = (uint64_t)pieces * i / s->threads, end = (uint64_t)pieces * (i + 1) / s->threads;
        const uint64_t ticket = s->number << PHASE_SHIFT | end << END_SHIFT | begin;
        atomic_store_explicit(&s->shares[i].ticket, ticket, memory_order_release);
    }
    take(s, 0);
    while (atomic_load_explicit(&s->done, memory_order_acquire) < pieces) relax();
}

static void multiply(State *s, const Layer *layer, const Layer *next, int kind, float *y) {
    run(s, (Phase){kind, layer, next, y, NULL}, pieces_of(layer));
}

/* Wait for work a little while, then asleep. */
static void *work(void *given) {
    Share *own = given;
    State *s = own->state;
    int idle = 0;
    while (!atomic_load_explicit(&s->ending, memory_order_relaxed)) {
        if (take(s, own->index)) {
            idle = 0;
        } else if (atomic_load_explicit(&s->awake, memory_order_relaxed) || ++idle < SPINS) {
            relax();
        } else {
            pthread_mutex_lock(&s->lock);
            while (!atomic_load(&s->awake) && !atomic_load(&s->ending)) pthread_cond_wait(&s->wake, &s->lock);
            pthread_mutex_unlock(&s->lock);
            idle = 0;
        }
    }
    return NULL;
}

static void rouse(State *s, _Atomic int *flag) {
    pthread_mutex_lock(&s->lock);
    atomic_store(flag, 1);
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* ---- what Python calls ---- */

/* Whether this CPU has the instructions that this was compiled for. */
int habitab_fits(void) {
#if defined(__AVX512VNNI__)
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("f16c");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return 1;
#endif
}

void habitab_close(State *s) {
    if (!s) return;
    rouse(s, &s->ending);
    for (int i = 1; i < s->threads; i++)
        if (s->shares[i].made) pthread_join(s->shares[i].thread, NULL);
    free(s->y), free(s->joined), free(s->parts), free(s->whole), free(s);
}

static void *room(size_t bytes) {
    void *at = NULL;
    if (posix_memalign(&at, ALIGN, bytes + ALIGN)) return NULL;
    return memset(at, 0, bytes + ALIGN);
}

static int widest(const Network *net) {
    const int qkv = (net->heads + 2 * net->groups) * net->size;
    return qkv > 2 * net->inner ? qkv : 2 * net->inner;
}

/* Null where there is no memory. `positions` bounds those of a KV cache; it is a multiple of BLOCK. */
State *habitab_open(const Network *net, int threads, int positions) {
    State *s = room(sizeof(State));
    if (!s) return NULL;
    s->net = *net;
    const int wide = widest(net) > net->width ? widest(net) : net->width;
    s->stride = (wide + ALIGN - 1) / ALIGN * ALIGN;
    s->y = room(sizeof(float) * MOST * wide);
    s->joined = room(sizeof(float) * MOST * net->heads * net->size);
    s->parts = room(sizeof(float) * MOST * net->heads * (net->size + LANES) * (positions / BLOCK));
    s->whole = room(sizeof(int16_t) * MOST * s->stride);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    if (!s->y || !s->joined || !s->parts || !s->whole) return habitab_close(s), NULL;
    s->threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    for (int i = 1; i < s->threads; i++) { /* what one that cannot be made would do, the others do */
        s->shares[i].state = s, s->shares[i].index = i;
        s->shares[i].made = !pthread_create(&s->shares[i].thread, NULL, work, &s->shares[i]);
    }
    return s;
}

/* Start a call: the threads look for work until it is over. */
static void begin(State *s, float *x, int m) {
    s->x = x, s->m = m;
    if (s->threads > 1) rouse(s, &s->awake);
}

/* m tokens, embedded, at `position` of a cache whose layers are `layer_size` apart: `x` [m, width] becomes their last
 * hidden states. */
void habitab_run(State *s, float *x, int m, int position, half *cache, int64_t layer_size) {
    const Network *net = &s->net;
    begin(s, x, m);
    s->position = position;
    for (int i = 0; i < net->layers; i++) {
        const Block *block = &net->blocks[i];
        half *memory = cache + i * layer_size;
        make_normed(s, &block->qkv);
        multiply(s, &block->qkv, &block->output, SET, s->y);
        remember(s, memory);
        run(s, (Phase){ATTEND, NULL, &block->output, s->y, memory}, ((position + m - 1) / BLOCK + 1) * net->groups);
        join(s, s->joined);
        for (int j = 0; j < m; j++) make_whole(s, &block->output, s->joined + j * block->output.k, j);
        multiply(s, &block->output, &block->gate_up, ADD, x);
        make_normed(s, &block->gate_up);
        multiply(s, &block->gate_up, &block->down, SET, s->y);
        for (int j = 0; j < m; j++) {
            gate(s->y + (size_t)j * 2 * net->inner, net->inner);
            make_whole(s, &block->down, s->y + (size_t)j * 2 * net->inner, j);
        }
        multiply(s, &block->down, i + 1 < net->layers ? &net->blocks[i + 1].qkv : &net->head, ADD, x);
    }
    atomic_store(&s->awake, 0);
}

/* The logits [m, V] after m hidden states [m, width]. */
void habitab_logits(State *s, float *x, int m, float *logits) {
    begin(s, x, m);
    make_normed(s, &s->net.head);
    multiply(s, &s->net.head, s->net.layers ? &s->net.blocks[0].qkv : &s->net.head, SET, logits);
    atomic_store(&s->awake, 0);
}
