/* A few tokens through the whole network in one call: what `step.py` and `few.py` compute, without anything between.
 *
 * At one token a layer's product takes some ten microseconds, so that dispatch, small operations and the meeting of
 * threads cost as much as reading the weights does. Here each weight is read once, as one byte, for up to MOST tokens,
 * against activations of 15 bits; threads take pieces of a phase as they come, so that one which the system keeps away
 * delays nobody. Many tokens are multiplied with the same weights, in the matrix units of CPUs that have them (fill.h) or
 * with weights that are widened once for all of them (panels.h). No dependencies; compiled once for each instruction set
 * (see build.py).
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
#else
#include <arm_neon.h>
#endif

#if defined(__AMX_INT8__) || (defined(__AVX2__) && !defined(__AVX512VNNI__))
#define FILLS
#endif

#if defined(__AVX512VNNI__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum {
    MOST = 8,             /* tokens of a step */
#if defined(FILLS)
    MOST_FILLED = 256,    /* tokens of a fill */
#else
    MOST_FILLED = 0,
#endif
    CAPACITY = MOST_FILLED > MOST ? MOST_FILLED : MOST,
    ROWS = 16,            /* of weights that stand together */
    BLOCK = 128,          /* positions of a block of the KV cache */
    MOST_HEAD = 128,      /* width of a head */
    MOST_HEADS = 16,      /* query heads of a group */
    MOST_THREADS = 64,
    ALIGN = 64,           /* bytes of a cache line */
    RUN = 768,            /* products with 15 bits that are summed before they become a float */
    PIECE_BYTES = 32768,  /* of weights: what a thread takes at once */
    AHEAD = 8192,         /* bytes that are asked for before they are needed; sweeps from 2 to 20 kB were flat from here */
    SPINS = 40000,        /* two milliseconds, what is between two tokens */
    /* Vectors and heads whose sums are kept in registers together. */
    TILE = 4, MOST_SHARED = 6, SHARED = LANES == 16 ? MOST_SHARED : 3,
};
/* Activations are whole numbers up to LARGEST: 128 * LARGEST * RUN fits in 31 bits, and two signed bytes give each of them
 * as 128 * high + low, with low in -64 .. 63. */
static const float LARGEST = 16255.0f;
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

/* [n, k] int8 with a scale a row. Each weight is stored as a byte 128 larger, ROWS rows at a time as [stride / 4, ROWS, 4],
 * where `stride` is k and what makes it a whole number of cache lines; there and in missing rows stands zero. `scale` is
 * as long as the rows with the missing ones; `gain` [k] and `bias`, as long, may be null. */
typedef struct {
    const uint8_t *rows;
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

typedef struct State State;
typedef struct Phase Phase;

/* What the pieces of a phase do and need; `next` is the layer of the product after it. */
struct Phase {
    void (*piece)(State *, const Phase *, int);
    const Layer *layer, *next;
    const float *from;
    float *y;             /* [M, n], where a product goes: added to it or in place of it */
    int add;
    half *memory;         /* one layer of the KV cache */
};

/* The pieces of one thread. `ticket` holds the number of the phase, the end of these pieces and the next one to be taken,
 * all in one word: a thread that comes late can never take a piece of another phase than it thinks. */
typedef struct {
    _Alignas(ALIGN) _Atomic uint64_t ticket;
    State *state;
    pthread_t thread;
    int index, made;
} Share;

/* A product's activations as whole numbers. The bytes of the weights are 128 too large: `minus` is what that adds to the
 * sums of the high and of the low bytes. `step` is what a one means. */
typedef struct {
#if defined(__AVX512VNNI__)
    int8_t *bytes;                  /* [CAPACITY, 2, stride], high and low */
#else
    int16_t *whole;                 /* [CAPACITY, stride] */
#endif
    int32_t minus[CAPACITY][2];
    float step[CAPACITY];
} Activations;

struct State {
    Network net;
    int threads, spins;             /* spins: looks for work before a thread sleeps */
    int m, position, strip;         /* strip: tokens of a piece of what is done for each token */
    float *x, *y, *joined, *parts;  /* [M, width], the caller's; [M, widest]; [M, H * D]; see part_of */
    Activations in;
    uint16_t *pairs;                /* of a fill, see fill.h */
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

#if defined(__AVX512VNNI__)
static inline float sum(floats v) { return _mm512_reduce_add_ps((__m512)v); }
static inline float largest(floats v) { return _mm512_reduce_max_ps((__m512)v); }
#elif defined(__AVX2__)
static inline float sum(floats v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
static inline float largest(floats v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
#else
static inline float sum(floats v) { return vaddvq_f32((float32x4_t)v); }
static inline float largest(floats v) { return vmaxvq_f32((float32x4_t)v); }
#endif

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

static inline void store_half(half *at, floats v) {
#if defined(__AVX512VNNI__)
    _mm256_storeu_si256((__m256i *)at, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
    _mm_storeu_si128((__m128i *)at, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
    *(halves *)at = __builtin_convertvector(v, halves);
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

/* A few of one token's activations, to place i. */
static inline void put(Activations *in, int stride, int token, int i, ints numbers, ints *sums) {
#if defined(__AVX512VNNI__)
    const ints high = (numbers + 64) >> 7, low = numbers - (high << 7);
    int8_t *to = in->bytes + (size_t)token * 2 * stride + i;
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)high));
    _mm_storeu_si128((__m128i *)(to + stride), _mm512_cvtepi32_epi8((__m512i)low));
    sums[0] += high, sums[1] += low;
#else
    (void)sums;
    *(shorts *)(in->whole + (size_t)token * stride + i) = __builtin_convertvector(numbers, shorts);
#endif
}

static inline int32_t total(ints v) {
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* One token's activations, times the layer's gain, as whole numbers for its product. */
static void make_whole(State *s, const Layer *layer, const float *v, int token) {
    const float most = magnitude(v, layer->gain, layer->k);
    const float by = most > 0 ? LARGEST / most : 0;
    ints sums[2] = {{0}, {0}};
    int i = 0;
    for (; i < layer->k; i += LANES) {
        floats a = load(v + i) * by;
        if (layer->gain) a *= load(layer->gain + i);
        put(&s->in, layer->stride, token, i, (ints)(a + ROUND) - (ints)all(ROUND), sums);
    }
    for (; i < layer->stride; i += LANES) put(&s->in, layer->stride, token, i, (ints){0}, sums);
    for (int j = 0; j < 2; j++) s->in.minus[token][j] = -128 * total(sums[j]);
    s->in.step[token] = most / LARGEST;
}

/* SwiGLU (arXiv 2002.05202): the first n become silu(first) * second. */
static void gate(float *v, int n) {
    for (int i = 0; i < n; i += LANES) {
        const floats x = load(v + i);
        store(v + i, x / (1.0f + exponential(-x)) * load(v + n + i));
    }
}

/* RMSNorm (arXiv 1910.07467, eq. 4) in front of a layer. */
static void make_normed(State *s, const Layer *layer, int token) {
    const float *v = s->x + (size_t)token * s->net.width;
    floats squares = all(0);
    for (int i = 0; i < s->net.width; i += LANES) squares += load(v + i) * load(v + i);
    make_whole(s, layer, v, token);
    s->in.step[token] /= sqrtf(sum(squares) + s->net.eps);
}

/* SwiGLU in front of `down`, behind gate and up. */
static void make_gated(State *s, const Layer *down, int token) {
    float *v = s->y + (size_t)token * 2 * s->net.inner;
    gate(v, s->net.inner);
    make_whole(s, down, v, token);
}

/* ---- products ---- */

static inline int blocks_of(const Layer *layer) { return (layer->n + ROWS - 1) / ROWS; }

#if defined(__AVX512VNNI__)
/* Four weights of each of ROWS rows times the same four activations. Compilers copy registers around the intrinsic. */
static inline void add_products(__m512i *sums, __m512i weights, const int8_t *four) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(*sums) : "v"(weights), "m"(*(const int8_t(*)[4])four));
}

/* Sums of products of ROWS rows with m tokens, [m, ROWS]; m is a constant where this is inlined. The weights are asked
 * for ahead of time. */
static inline __attribute__((always_inline)) void dots(const Activations *in, const uint8_t *w, int stride, int m,
                                                       float (*out)[ROWS]) {
    const int turns = m == 1 ? 4 : m <= 3 ? 2 : 1; /* sums that take turns: one waits for itself */
    __m512i sums[MOST][4][2];
    for (int j = 0; j < m; j++)
        for (int u = 0; u < turns; u++)
            for (int i = 0; i < 2; i++) sums[j][u][i] = u ? _mm512_setzero_si512() : _mm512_set1_epi32(in->minus[j][i]);
    for (int at = 0; at < stride; at += 4 * turns)
        for (int u = 0; u < turns; u++) {
            const uint8_t *here = w + (size_t)at * ROWS + u * ALIGN;
            __builtin_prefetch(here + AHEAD);
            const __m512i weights = _mm512_loadu_si512(here);
            for (int j = 0; j < m; j++)
                for (int i = 0; i < 2; i++)
                    add_products(&sums[j][u][i], weights, in->bytes + (size_t)(2 * j + i) * stride + at + 4 * u);
        }
    for (int j = 0; j < m; j++) {
        for (int u = 1; u < turns; u++)
            for (int i = 0; i < 2; i++) sums[j][0][i] = _mm512_add_epi32(sums[j][0][i], sums[j][u][i]);
        store(out[j], (floats)_mm512_cvtepi32_ps(sums[j][0][0]) * 128.0f + (floats)_mm512_cvtepi32_ps(sums[j][0][1]));
    }
}
#else
#if defined(__AVX2__)
/* Four weights of each of four rows, as 16 bits. */
static inline __m256i widened(const uint8_t *w) {
    return _mm256_cvtepi8_epi16(_mm_xor_si128(_mm_loadu_si128((const __m128i *)w), _mm_set1_epi8((char)128)));
}

/* Adds the sums of ROWS rows, of which each has two that follow each other, to `out` [ROWS]. */
static inline void add_rows(const __m256i *sums, float *out) {
    for (int g = 0; g < ROWS / 4; g += 2) {
        const __m256i rows = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[g], sums[g + 1]), 0xd8);
        store(out + 4 * g, load(out + 4 * g) + (floats)_mm256_cvtepi32_ps(rows));
    }
}

/* Adds the products `begin` to `end` of ROWS rows with one token to `out` [ROWS]. */
static inline void add_products(const int16_t *x, const uint8_t *w, int begin, int end, float *out) {
    __m256i sums[ROWS / 4];
    for (int g = 0; g < ROWS / 4; g++) sums[g] = _mm256_setzero_si256();
    for (int at = begin; at < end; at += 4) {
        int64_t four;
        memcpy(&four, x + at, sizeof four);
        const __m256i a = _mm256_set1_epi64x(four);
        __builtin_prefetch(w + (size_t)at * ROWS + AHEAD);
        for (int g = 0; g < ROWS / 4; g++)
            sums[g] = _mm256_add_epi32(sums[g], _mm256_madd_epi16(widened(w + (size_t)(at + g) * ROWS), a));
    }
    add_rows(sums, out);
}
#else
static inline void add_products(const int16_t *x, const uint8_t *w, int begin, int end, float *out) {
    int32x4_t sums[ROWS];
    for (int i = 0; i < ROWS; i++) sums[i] = vdupq_n_s32(0);
    for (int at = begin; at < end; at += 4) {
        const int16x4_t a = vld1_s16(x + at);
        __builtin_prefetch(w + (size_t)at * ROWS + AHEAD);
        for (int g = 0; g < ROWS; g += 4) {
            const uint8x16_t raw = veorq_u8(vld1q_u8(w + (size_t)at * ROWS + 4 * g), vdupq_n_u8(128));
            const int8x16_t weights = vreinterpretq_s8_u8(raw);
            const int16x8_t front = vmovl_s8(vget_low_s8(weights)), back = vmovl_high_s8(weights);
            sums[g] = vmlal_s16(sums[g], vget_low_s16(front), a);
            sums[g + 1] = vmlal_s16(sums[g + 1], vget_high_s16(front), a);
            sums[g + 2] = vmlal_s16(sums[g + 2], vget_low_s16(back), a);
            sums[g + 3] = vmlal_s16(sums[g + 3], vget_high_s16(back), a);
        }
    }
    for (int g = 0; g < ROWS; g += 4) {
        const int32x4_t rows = vpaddq_s32(vpaddq_s32(sums[g], sums[g + 1]), vpaddq_s32(sums[g + 2], sums[g + 3]));
        store(out + g, load(out + g) + (floats)vcvtq_f32_s32(rows));
    }
}
#endif

static inline void dots(const Activations *in, const uint8_t *w, int stride, int m, float (*out)[ROWS]) {
    memset(out, 0, sizeof(float) * ROWS * m);
    for (int begin = 0; begin < stride; begin += RUN)
        for (int j = 0; j < m; j++)
            add_products(in->whole + (size_t)j * stride, w, begin, stride - begin < RUN ? stride : begin + RUN, out[j]);
}
#endif

#if defined(__AMX_INT8__)
#include "tiles.h"
#endif

/* Blocks of ROWS rows in a piece. */
static inline int piece_blocks(const Layer *layer) {
    const int blocks = PIECE_BYTES / (layer->stride * ROWS);
    return blocks > 1 ? blocks : 1;
}

static inline int pieces_of(const Layer *layer) {
    return (blocks_of(layer) + piece_blocks(layer) - 1) / piece_blocks(layer);
}

/* ROWS sums of one token, from row n on, become what the layer gives. Where it adds, n is a whole number of ROWS. */
static inline void finish(const State *s, const Phase *phase, int n, int token, const float *sums) {
    const Layer *layer = phase->layer;
    const int some = layer->n - n < ROWS ? layer->n - n : ROWS;
    float last[ROWS], *y = phase->y + (size_t)token * layer->n + n, *to = some < ROWS ? last : y;
    for (int i = 0; i < ROWS; i += LANES) {
        floats found = load(sums + i) * s->in.step[token] * load(layer->scale + n + i);
        if (layer->bias) found += load(layer->bias + n + i);
        if (phase->add) found += load(y + i);
        store(to + i, found);
    }
    if (some < ROWS) memcpy(y, last, sizeof(float) * some);
}

static void product(State *s, const Phase *phase, int piece) {
    const Layer *layer = phase->layer;
    const int each = piece_blocks(layer), begin = piece * each, all = blocks_of(layer);
    float out[MOST][ROWS];
#if defined(__AMX_INT8__)
    if (s->m >= TILED) tiles_on();
#endif
    for (int block = begin; block < begin + each && block < all; block++) {
        const uint8_t *w = layer->rows + (size_t)block * ROWS * layer->stride;
#if defined(__AMX_INT8__)
        if (s->m >= TILED) dots_in_tiles(&s->in, w, layer->stride, s->m, out);
        else
#endif
        switch (s->m) {
#define OF(m) case m: dots(&s->in, w, layer->stride, m, out); break;
            OF(1) OF(2) OF(3) OF(4) OF(5) OF(6) OF(7) OF(8)
#undef OF
        }
        for (int token = 0; token < s->m; token++) finish(s, phase, block * ROWS, token, out[token]);
    }
#if defined(__AMX_INT8__)
    if (s->m >= TILED) _tile_release();
#endif
}

/* ---- attention ---- */

/* What one block gave one head of one token: [D], the largest score, the sum of weights. Those of a group follow each other,
 * by token and head. */
static inline float *part_of(const State *s, int block, int token, int head) {
    const Network *net = &s->net;
    const int heads = net->heads / net->groups, group = head / heads;
    const size_t at = (((size_t)block * net->groups + group) * MOST + token) * heads + head % heads;
    return s->parts + at * (net->size + LANES);
}

/* A query or key, turned (RoPE, arXiv 2104.09864); `turns` are the D / 2 complex numbers of its position. */
static inline void turn(const float *restrict v, const float *restrict turns, int d, float *restrict out) {
    for (int i = 0; i < d; i += 2) {
        out[i] = v[i] * turns[i] - v[i + 1] * turns[i + 1];
        out[i + 1] = v[i] * turns[i + 1] + v[i + 1] * turns[i];
    }
}

static inline const float *turns_of(const State *s, int token) {
    return s->net.turns + (size_t)(s->position + token) * s->net.size;
}

/* Where the key of a token and a group is made from; its value stands `groups` * D behind. */
static inline const float *key_of(const State *s, int token, int group) {
    const Network *net = &s->net;
    return s->y + ((size_t)token * (net->heads + 2 * net->groups) + net->heads + group) * net->size;
}

static inline void put_value(const State *s, int token, int group, half *values) {
    const float *from = key_of(s, token, group) + s->net.groups * s->net.size;
    for (int i = 0; i < s->net.size; i += LANES) store_half(values + i, load(from + i));
}

/* A key's numbers lie BLOCK apart. */
static inline void put_key(const State *s, int token, int group, half *keys) {
    const int d = s->net.size;
    float key[MOST_HEAD];
    half narrow[MOST_HEAD];
    turn(key_of(s, token, group), turns_of(s, token), d, key);
    for (int i = 0; i < d; i += LANES) store_half(narrow + i, load(key + i));
    for (int i = 0; i < d; i++) keys[(size_t)i * BLOCK] = narrow[i];
}

/* Weighted sums of the same rows, one for each of `heads` lists of weights: all arrays have a row a head, so many elements
 * `apart`. `vectors` and `heads` are constants where this is inlined, so the sums stay in registers. Meanwhile `ahead` is
 * asked for, as much of it as is read here. */
static inline __attribute__((always_inline)) void weigh(const float *weights, size_t weights_apart, const half *from,
                                                        size_t apart, int rows, int vectors, int heads, float *to,
                                                        size_t to_apart, const half *ahead) {
    floats sums[MOST_SHARED][TILE];
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < vectors; j++) sums[h][j] = all(0);
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vectors; j++) {
            if (j * LANES * sizeof(half) % ALIGN == 0) __builtin_prefetch(ahead + i * apart + j * LANES);
            const floats v = load_half(from + i * apart + j * LANES);
            for (int h = 0; h < heads; h++) sums[h][j] += weights[h * weights_apart + i] * v;
        }
    }
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < vectors; j++) store(to + h * to_apart + j * LANES, sums[h][j]);
}

/* The same for `n` columns, a whole number of vectors, and any number of heads. */
static void weighted(const float *weights, size_t weights_apart, const half *from, size_t apart, int rows, int n,
                     int heads, float *to, size_t to_apart, const half *ahead) {
    for (int h = 0; h < heads; h += SHARED) {
        const float *w = weights + h * weights_apart;
        const int some = heads - h < SHARED ? heads - h : SHARED;
        for (int i = 0; i < n;) {
            float *out = to + h * to_apart + i;
            const int vectors = i + TILE * LANES <= n ? TILE : 1;
            switch (vectors * (SHARED + 1) + some) {
#define OF(v, h) case (v) * (SHARED + 1) + (h): \
                weigh(w, weights_apart, from + i, apart, rows, v, h, out, to_apart, ahead + i); break;
                OF(TILE, 1) OF(TILE, 2) OF(TILE, 3) OF(TILE, 4) OF(TILE, 5) OF(TILE, 6)
                OF(1, 1) OF(1, 2) OF(1, 3) OF(1, 4) OF(1, 5) OF(1, 6)
#undef OF
            }
            i += vectors * LANES;
        }
    }
}

/* n scores to weights (arXiv 1706.03762, eq. 1), those behind `count` to nothing; the largest score and the sum go to
 * `found`. n is a multiple of LANES. */
static void soften(float *scores, int n, int count, float scale, float *found) {
    floats most = all(-INFINITY), total = all(0);
    for (int t = count; t < n; t++) scores[t] = -INFINITY;
    for (int t = 0; t < n; t += LANES) most = larger(most, load(scores + t));
    const float top = largest(most);
    for (int t = 0; t < n; t += LANES) {
        const floats p = t < count ? exponential((load(scores + t) - top) * scale) : all(0);
        store(scores + t, p);
        total += p;
    }
    found[0] = top * scale, found[1] = sum(total);
}

/* The new tokens of a block go to the cache; then what all query heads of a group get from it: for each of them and each
 * token its mean of values, the largest score and the sum of the weights, by which the mean is not yet divided
 * (arXiv 2205.14135, section 3.1). */
static void attend(State *s, const Phase *phase, int piece) {
    const Network *net = &s->net;
    const int d = net->size, g = net->groups, heads = net->heads / g, group = piece % g, block = piece / g;
    const int begin = block * BLOCK, first = begin - s->position;
    half *keys = phase->memory + ((size_t)block * 2 * g + group) * d * BLOCK, *values = keys + (size_t)g * d * BLOCK;
    for (int token = first > 0 ? first : 0; token < s->m && token < first + BLOCK; token++) {
        put_key(s, token, group, keys + (token - first));
        put_value(s, token, group, values + (size_t)(token - first) * d);
    }
    /* Tokens whose last position is in front of the block get nothing from it: join() does not ask. */
    const int skipped = first > 0 ? first : 0, all_heads = (s->m - skipped) * heads;
    const int seen = s->m - first < BLOCK ? s->m - first : BLOCK;
    float query[MOST * MOST_HEADS * MOST_HEAD], scores[MOST * MOST_HEADS * BLOCK];
    for (int h = 0; h < all_heads; h++) {
        const int token = skipped + h / heads;
        const float *from = phase->from + ((size_t)token * (net->heads + 2 * g) + group * heads + h % heads) * d;
        turn(from, turns_of(s, token), d, query + h * d);
    }
    float *to = part_of(s, block, skipped, group * heads);
    weighted(query, d, keys, BLOCK, d, BLOCK, all_heads, scores, BLOCK, values);
    for (int h = 0; h < all_heads; h++) {
        const int own = skipped + h / heads - first + 1, count = own < BLOCK ? own : BLOCK;
        soften(scores + h * BLOCK, BLOCK, count, 1.0f / sqrtf((float)d), to + h * (d + LANES) + d);
    }
    weighted(scores, BLOCK, values, d, seen, d, all_heads, to, d + LANES, keys + (size_t)d * BLOCK);
}

/* Put the blocks' parts of one token together: [H * D] to `out`. */
static void join(const State *s, int token, float *out) {
    const Network *net = &s->net;
    const int d = net->size, blocks = (s->position + token) / BLOCK + 1;
    float weights[blocks + LANES], found[2];
    for (int head = 0; head < net->heads; head++, out += d) {
        for (int block = 0; block < blocks; block++) weights[block] = part_of(s, block, token, head)[d];
        soften(weights, (blocks + LANES - 1) / LANES * LANES, blocks, 1.0f, found);
        float total = 0;
        floats mean[MOST_HEAD / LANES];
        for (int i = 0; i < d / LANES; i++) mean[i] = all(0);
        for (int block = 0; block < blocks; block++) {
            const float *got = part_of(s, block, token, head);
            total += weights[block] * got[d + 1];
            for (int i = 0; i < d / LANES; i++) mean[i] += weights[block] * load(got + i * LANES);
        }
        for (int i = 0; i < d / LANES; i++) store(out + i * LANES, mean[i] / total);
    }
}

/* ---- threads ---- */

/* Ask for the beginning of a thread's share in the next product, which is not in its cache yet. */
static void prefetch(const State *s, const Layer *next, int own) {
    const int first = pieces_of(next) * own / s->threads * piece_blocks(next);
    const uint8_t *at = next->rows + (size_t)first * ROWS * next->stride;
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
    s->phase.piece(s, &s->phase, (int)LOW(mine));
    const Layer *next = LOW(mine) + 1 == LOW(mine >> END_SHIFT) ? s->phase.next : NULL;
    atomic_fetch_add_explicit(&s->done, 1, memory_order_release);
    if (next) prefetch(s, next, share);
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

static void multiply(State *s, const Layer *layer, const Layer *next, float *y, int add) {
    run(s, (Phase){.piece = product, .layer = layer, .next = next, .y = y, .add = add}, pieces_of(layer));
}

/* Wait for work a little while, then asleep. */
static void *work(void *given) {
    Share *own = given;
    State *s = own->state;
    int idle = 0;
    while (!atomic_load_explicit(&s->ending, memory_order_relaxed)) {
        if (take(s, own->index)) {
            idle = 0;
        } else if (atomic_load_explicit(&s->awake, memory_order_relaxed) || ++idle < s->spins) {
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

/* Start a call: the threads look for work until it is over. */
static void begin(State *s, float *x, int m, int strip) {
    s->x = x, s->m = m, s->strip = strip;
    if (s->threads > 1) rouse(s, &s->awake);
}

/* ---- what is done for each token ---- */

#define EACH_TOKEN(s, piece, token) \
    for (int token = (piece) * (s)->strip; token < ((piece) + 1) * (s)->strip && token < (s)->m; token++)

static void normed(State *s, const Phase *phase, int piece) {
    EACH_TOKEN(s, piece, token) make_normed(s, phase->layer, token);
}

static void gated(State *s, const Phase *phase, int piece) {
    EACH_TOKEN(s, piece, token) make_gated(s, phase->layer, token);
}

static void joined(State *s, const Phase *phase, int piece) {
    EACH_TOKEN(s, piece, token) join(s, token, s->joined + (size_t)token * phase->layer->k);
}

static void whole(State *s, const Phase *phase, int piece) {
    EACH_TOKEN(s, piece, token) make_whole(s, phase->layer, phase->from + (size_t)token * phase->layer->k, token);
}

static void each(State *s, void (*piece)(State *, const Phase *, int), const Layer *layer, const float *from) {
    const Phase phase = {.piece = piece, .layer = layer, .from = from};
    const int pieces = (s->m + s->strip - 1) / s->strip;
    if (pieces > 1) run(s, phase, pieces);
    else piece(s, &phase, 0);
}

/* The attention of tokens whose queries, keys and values are in y: to `joined`. `memory` is a layer of the cache. */
static void attention(State *s, const Block *block, const Layer *next, half *memory) {
    run(s, (Phase){.piece = attend, .next = next, .from = s->y, .memory = memory},
        ((s->position + s->m - 1) / BLOCK + 1) * s->net.groups);
    each(s, joined, &block->output, NULL);
}

#if defined(__AMX_INT8__)
#include "fill.h"
#elif defined(FILLS)
#include "panels.h"
#endif

/* ---- what Python calls ---- */

/* Whether this CPU has the instructions that this was compiled for. */
int habitab_fits(void) {
#if defined(__AMX_INT8__)
    if (!matrix_units()) return 0;
#endif
#if defined(__AVX512VNNI__)
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("f16c");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return 1;
#endif
}

#if defined(__AVX512VNNI__)
#define WHOLE bytes
#else
#define WHOLE whole
#endif

void habitab_close(State *s) {
    if (!s) return;
    rouse(s, &s->ending);
    for (int i = 1; i < s->threads; i++)
        if (s->shares[i].made) pthread_join(s->shares[i].thread, NULL);
    free(s->y), free(s->joined), free(s->parts), free(s->in.WHOLE), free(s->pairs), free(s);
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

/* Null where there is no memory. `positions` bounds those of a KV cache, 0 where there is none; it is a multiple of
 * BLOCK. */
State *habitab_open(const Network *net, int threads, int positions) {
    State *s = room(sizeof(State));
    if (!s) return NULL;
    s->net = *net;
    const int wide = widest(net) > net->width ? widest(net) : net->width;
    s->y = room(sizeof(float) * CAPACITY * wide);
    s->joined = room(sizeof(float) * CAPACITY * net->heads * net->size);
    s->parts = room(sizeof(float) * MOST * net->heads * (net->size + LANES) * (positions / BLOCK));
    s->in.WHOLE = room(sizeof(int16_t) * CAPACITY * ((wide + ALIGN - 1) / ALIGN * ALIGN));
    s->pairs = room(MOST_FILLED ? sizeof(uint16_t) * 2 * net->groups * net->size * positions : 1);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    if (!s->y || !s->joined || !s->parts || !s->in.WHOLE || !s->pairs) return habitab_close(s), NULL;
    s->threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    s->spins = positions ? SPINS : 0; /* between products without a network others want the cores */
    for (int i = 1; i < s->threads; i++) { /* what one that cannot be made would do, the others do */
        s->shares[i].state = s, s->shares[i].index = i;
        s->shares[i].made = !pthread_create(&s->shares[i].thread, NULL, work, &s->shares[i]);
    }
    return s;
}

/* m tokens, embedded, at `position` of a cache whose layers are `layer_size` apart: `x` [m, width] becomes their last
 * hidden states. */
void habitab_run(State *s, float *x, int m, int position, half *cache, int64_t layer_size) {
    const Network *net = &s->net;
    begin(s, x, m, 1);
    s->position = position;
    for (int i = 0; i < net->layers; i++) {
        const Block *block = &net->blocks[i];
        each(s, normed, &block->qkv, NULL);
        multiply(s, &block->qkv, &block->output, s->y, 0);
        attention(s, block, &block->output, cache + i * layer_size);
        each(s, whole, &block->output, s->joined);
        multiply(s, &block->output, &block->gate_up, x, 1);
        each(s, normed, &block->gate_up, NULL);
        multiply(s, &block->gate_up, &block->down, s->y, 0);
        each(s, gated, &block->down, NULL);
        multiply(s, &block->down, i + 1 < net->layers ? &net->blocks[i + 1].qkv : &net->head, x, 1);
    }
    atomic_store(&s->awake, 0);
}

#if defined(FILLS)
/* m tokens through one block at `position`, with its layer of the cache; x [m, width] changes as it does in
 * `habitab_run`. */
void habitab_fill(State *s, float *x, int m, int position, half *memory, int index) {
    const Block *block = &s->net.blocks[index];
    begin(s, x, m, STRIP);
    s->position = position;
    each(s, normed, &block->qkv, NULL);
    fill_multiply(s, &block->qkv, s->y, 0);
    fill_attention(s, block, memory);
    each(s, whole, &block->output, s->joined);
    fill_multiply(s, &block->output, x, 1);
    each(s, normed, &block->gate_up, NULL);
    fill_multiply(s, &block->gate_up, s->y, 0);
    each(s, gated, &block->down, NULL);
    fill_multiply(s, &block->down, x, 1);
    atomic_store(&s->awake, 0);
}

/* y [m, n] of x [m, k] by one matrix. */
void habitab_multiply(State *s, const Layer *layer, float *x, int m, float *y) {
    begin(s, x, m, STRIP);
    each(s, whole, layer, x);
    fill_multiply(s, layer, y, 0);
    atomic_store(&s->awake, 0);
}
#endif

/* The logits [m, V] after m hidden states [m, width]. */
void habitab_logits(State *s, float *x, int m, float *logits) {
    begin(s, x, m, 1);
    each(s, normed, &s->net.head, NULL);
#if defined(FILLS)
    if (m > MOST) fill_multiply(s, &s->net.head, logits, 0);
    else
#endif
    multiply(s, &s->net.head, s->net.layers ? &s->net.blocks[0].qkv : &s->net.head, logits, 0);
    atomic_store(&s->awake, 0);
}

/* What the width of a head has to be a multiple of, for MOST_FILLED tokens at once; 0 where they are MOST at most. */
int habitab_filled(void) {
#if defined(FILLS)
    return COLUMNS;
#else
    return 0;
#endif
}
