/* Many tokens through one block of the network at a time, in the matrix units (AMX) of a CPU; part of step.c.
 *
 * The products are those of a step, to the bit: the same bytes of weights against the same two bytes of activations.
 * Attention is in bfloat16. Tokens are taken STRIP at a time, as a matrix unit has that many rows; those behind the last
 * one are computed and left.
 */

enum {
    PAIR = 2,      /* blocks of ROWS rows of weights that are multiplied at once */
    COLUMNS = 64,  /* of scores or of a head that are computed at once */
};

typedef uint16_t brain; /* bfloat16 */

static inline void zero_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Adds matrix register 4, of bfloat16, times four tiles side by side, whose rows are `apart` bytes apart, to the sums. */
static inline void add_tiles(const brain *tiles, size_t apart) {
    _tile_loadd(5, tiles, apart);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, tiles + 2 * STRIP, apart);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(5, tiles + 4 * STRIP, apart);
    _tile_dpbf16ps(2, 4, 5);
    _tile_loadd(6, tiles + 6 * STRIP, apart);
    _tile_dpbf16ps(3, 4, 6);
}

/* The sums side by side, as [STRIP, COLUMNS]; rows are `apart` bytes apart. */
static inline void store_sums(float *to, size_t apart) {
    _tile_stored(0, to, apart);
    _tile_stored(1, to + STRIP, apart);
    _tile_stored(2, to + 2 * STRIP, apart);
    _tile_stored(3, to + 3 * STRIP, apart);
}

static inline int strips_of(const State *s) { return (s->m + STRIP - 1) / STRIP; }

/* ---- products ---- */

/* PAIR blocks of ROWS rows with all tokens. Matrix registers 0 and 1 are the first block's sums of high and of low bytes. */
static void fill_product(State *s, const Phase *phase, int piece) {
    const Layer *layer = phase->layer;
    const int stride = layer->stride, first = piece * PAIR, blocks = blocks_of(layer);
    const size_t size = (size_t)ROWS * stride;
    const uint8_t *w = layer->rows + first * size, *second = first + 1 < blocks ? w + size : w;
    int32_t sums[2 * PAIR][STRIP * ROWS];
    tiles_on();
    for (int begin = 0; begin < s->m; begin += STRIP) {
        const int8_t *bytes = s->in.bytes + (size_t)begin * 2 * stride;
        zero_sums();
        for (int at = 0; at < stride; at += LINE) {
            _tile_loadd(4, bytes + at, 2 * stride);
            _tile_loadd(5, bytes + stride + at, 2 * stride);
            _tile_loadd(6, w + (size_t)at * ROWS, LINE);
            _tile_loadd(7, second + (size_t)at * ROWS, LINE);
            _tile_dpbsud(0, 4, 6);
            _tile_dpbsud(1, 5, 6);
            _tile_dpbsud(2, 4, 7);
            _tile_dpbsud(3, 5, 7);
        }
        _tile_stored(0, sums[0], LINE);
        _tile_stored(1, sums[1], LINE);
        _tile_stored(2, sums[2], LINE);
        _tile_stored(3, sums[3], LINE);
        for (int i = 0; i < PAIR && first + i < blocks; i++)
            for (int t = 0; t < STRIP && begin + t < s->m; t++) {
                float found[ROWS];
                store(found, together(s->in.minus[begin + t], sums[2 * i] + t * ROWS, sums[2 * i + 1] + t * ROWS));
                finish(s, phase, (first + i) * ROWS, begin + t, found);
            }
    }
    _tile_release();
}

static void fill_multiply(State *s, const Layer *layer, float *y, int add) {
    run(s, (Phase){.piece = fill_product, .layer = layer, .y = y, .add = add}, (blocks_of(layer) + PAIR - 1) / PAIR);
}

/* ---- keys and values ---- */

/* The keys of tokens that stand in one block, from its position `at` on: [D, BLOCK] is written a row of tokens at a time. */
static void put_keys(const State *s, int begin, int tokens, int group, half *keys) {
    const int d = s->net.size;
    const __mmask16 these = (__mmask16)((1u << tokens) - 1);
    const __m512i apart = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(MOST_HEAD));
    float turned[STRIP][MOST_HEAD];
    for (int t = 0; t < tokens; t++) turn(key_of(s, begin + t, group), turns_of(s, begin + t), d, turned[t]);
    for (int i = 0; i < d; i++) {
        const __m512 row = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), these, apart, turned[0] + i, sizeof(float));
        _mm256_mask_storeu_epi16(keys + (size_t)i * BLOCK, these, _mm512_cvtps_ph(row, _MM_FROUND_TO_NEAREST_INT));
    }
}

/* A strip's keys and values go to the cache. */
static void fill_remembered(State *s, const Phase *phase, int piece) {
    const int d = s->net.size, groups = s->net.groups, end = s->m < (piece + 1) * STRIP ? s->m : (piece + 1) * STRIP;
    for (int token = piece * STRIP, tokens; token < end; token += tokens) {
        const int position = s->position + token, at = position % BLOCK;
        half *block = phase->memory + (size_t)(position / BLOCK) * 2 * groups * d * BLOCK;
        tokens = end - token < BLOCK - at ? end - token : BLOCK - at;
        for (int group = 0; group < groups; group++) {
            put_keys(s, token, tokens, group, block + (size_t)group * d * BLOCK + at);
            for (int t = 0; t < tokens; t++)
                put_value(s, token + t, group, block + ((size_t)(groups + group) * BLOCK + at + t) * d);
        }
    }
}

/* ---- attention ---- */

static inline __m512i as_brain(floats v) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v)); }

/* [rows, columns] of the cache as the second factor of a matrix unit: bfloat16 [rows / 2, columns, 2]. What lies behind
 * `rows` becomes zero, up to `all_rows` of them. */
static void pair_up(const half *from, int rows, int all_rows, int columns, brain *to) {
    for (int i = 0; i < all_rows; i += 2)
        for (int j = 0; j < columns; j += LANES) {
            const half *at = from + (size_t)i * columns + j;
            const __m512i first = i < rows ? as_brain(load_half(at)) : _mm512_setzero_si512();
            const __m512i second = i + 1 < rows ? as_brain(load_half(at + columns)) : _mm512_setzero_si512();
            _mm512_storeu_si512(to + (size_t)i * columns + 2 * j, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
        }
}

/* The keys or the values of one group in one block of the cache, in `pairs` at the same place. */
static void fill_paired(State *s, const Phase *phase, int piece) {
    const Network *net = &s->net;
    const int d = net->size, block = piece / (2 * net->groups), positions = s->position + s->m - block * BLOCK;
    const half *from = phase->memory + (size_t)piece * d * BLOCK;
    brain *to = s->pairs + (size_t)piece * d * BLOCK;
    if (piece % (2 * net->groups) < net->groups) pair_up(from, d, d, BLOCK, to);
    else pair_up(from, positions, BLOCK, d, to);
}

/* The scores [STRIP, n] of queries [STRIP, D] with the keys of a group. */
static void score(const State *s, int group, const brain *query, int n, float *scores) {
    const int d = s->net.size;
    for (int at = 0; at < n; at += COLUMNS) {
        const brain *keys = s->pairs + ((size_t)(at / BLOCK) * 2 * s->net.groups + group) * d * BLOCK + at % BLOCK * 2;
        zero_sums();
        for (int i = 0; i < d; i += LINE / 2, keys += (size_t)LINE / 2 * BLOCK) {
            _tile_loadd(4, query + i, d * sizeof(brain));
            add_tiles(keys, BLOCK * 2 * sizeof(brain));
        }
        store_sums(scores + at, n * sizeof(float));
    }
}

/* The means [STRIP, COLUMNS] of a group's values from one of their columns on, by weights [STRIP, n]. */
static void mean(const State *s, int group, const brain *weights, int n, int column, float *means) {
    const int d = s->net.size, groups = s->net.groups;
    zero_sums();
    for (int at = 0; at < n; at += LINE / 2) {
        const size_t place = ((size_t)(at / BLOCK) * 2 * groups + groups + group) * d * BLOCK + at % BLOCK * d;
        _tile_loadd(4, weights + at, n * sizeof(brain));
        add_tiles(s->pairs + place + column * 2, d * 2 * sizeof(brain));
    }
    store_sums(means, COLUMNS * sizeof(float));
}

/* 2^x to four digits, more than bfloat16 shows: a polynomial over the fraction (minimax on -0.5 .. 0.5). */
static inline __m512 power(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT), f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.05500613f), f, _mm512_set1_ps(0.24220221f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6932822f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f)), n);
}

/* The first `count` of n scores to weights in bfloat16 (arXiv 1706.03762, eq. 1), the others to nothing; returns their sum.
 * n is a multiple of LANES. */
static float weights_of(const float *scores, int n, int count, float scale, brain *weights) {
    const __m512 least = _mm512_set1_ps(-INFINITY), by = _mm512_set1_ps(scale * 1.44269504f);
    const __mmask16 last = (__mmask16)((1u << (count % LANES)) - 1);
    const int whole = count - count % LANES;
    __m512 most = least, total = _mm512_setzero_ps();
    for (int i = 0; i < whole; i += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(scores + i));
    if (last) most = _mm512_max_ps(most, _mm512_mask_loadu_ps(least, last, scores + whole));
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (int i = 0; i < n; i += LANES) {
        const __mmask16 these = i < whole ? 0xffff : i == whole ? last : 0;
        const __m512 score = _mm512_maskz_loadu_ps(these, scores + i);
        const __m512 p = _mm512_maskz_mov_ps(these, power(_mm512_mul_ps(_mm512_sub_ps(score, top), by)));
        total = _mm512_add_ps(total, p);
        _mm256_storeu_si256((__m256i *)(weights + i), (__m256i)_mm512_cvtneps_pbh(p));
    }
    return _mm512_reduce_add_ps(total);
}

/* The attention of one head of a strip's tokens. */
static void fill_head(State *s, int begin, int tokens, int head) {
    const Network *net = &s->net;
    const int d = net->size, group = head / (net->heads / net->groups), wide = (net->heads + 2 * net->groups) * d;
    const int n = (s->position + begin + tokens + COLUMNS - 1) / COLUMNS * COLUMNS;
    brain query[STRIP * MOST_HEAD], weights[STRIP * n];
    float scores[STRIP * n], sums[STRIP], means[STRIP][COLUMNS], turned[MOST_HEAD];
    memset(query, 0, sizeof query);
    if (tokens < STRIP) memset(weights, 0, sizeof(brain) * STRIP * n);
    for (int t = 0; t < tokens; t++) {
        turn(s->y + (size_t)(begin + t) * wide + head * d, turns_of(s, begin + t), d, turned);
        for (int i = 0; i < d; i += LANES)
            _mm256_storeu_si256((__m256i *)(query + t * d + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(turned + i)));
    }
    score(s, group, query, n, scores);
    for (int t = 0; t < tokens; t++)
        sums[t] = weights_of(scores + t * n, n, s->position + begin + t + 1, 1.0f / sqrtf((float)d), weights + t * n);
    for (int column = 0; column < d; column += COLUMNS) {
        mean(s, group, weights, n, column, means[0]);
        for (int t = 0; t < tokens; t++) {
            float *to = s->joined + ((size_t)(begin + t) * net->heads + head) * d + column;
            for (int i = 0; i < COLUMNS; i += LANES) store(to + i, load(means[t] + i) / sums[t]);
        }
    }
}

/* A strip and a head, the longest strips first. */
static void fill_heads(State *s, const Phase *phase, int piece) {
    (void)phase;
    const int begin = (strips_of(s) - 1 - piece / s->net.heads) * STRIP;
    tiles_on();
    fill_head(s, begin, s->m - begin < STRIP ? s->m - begin : STRIP, piece % s->net.heads);
    _tile_release();
}

/* The attention of all tokens, whose queries, keys and values are in y: to `joined`. */
static void fill_attention(State *s, const Block *block, half *memory) {
    (void)block;
    run(s, (Phase){.piece = fill_remembered, .memory = memory}, strips_of(s));
    run(s, (Phase){.piece = fill_paired, .memory = memory}, ((s->position + s->m - 1) / BLOCK + 1) * 2 * s->net.groups);
    run(s, (Phase){.piece = fill_heads}, strips_of(s) * s->net.heads);
}
