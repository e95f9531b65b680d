/* Many tokens through one block of the network at a time, on CPUs without matrix units; part of step.c.
 *
 * The products are those of a step, to the bit. The bytes of ROWS rows of weights are widened to 16 bits once for all
 * tokens, RUN of them at a time, which stay in a core's nearest cache; pairs of them are multiplied and summed by one
 * instruction, twice as many numbers as of floats. Attention is that of steps, MOST tokens at a time.
 */

enum {
    STRIP = MOST,    /* tokens of a piece of what is done for each token */
    COLUMNS = LANES, /* of what the width of a head is a multiple */
    ABREAST = 3,     /* tokens whose sums are in registers at the same time */
};

/* Four sums more: of four weights of each of four rows with the same activations. Compilers keep sums of this kind in
 * memory. */
static inline __attribute__((always_inline)) void add_pairs(__m256i *sum, const __m256i *weights, __m256i four) {
    __m256i pairs;
    __asm__("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(*sum), "=&x"(pairs) : "m"(*weights), "x"(four));
}

/* Adds the products of n weights of ROWS rows with so many `tokens`, whose activations are `apart`, to `out`; `tokens` is
 * a constant where this is inlined. */
static inline __attribute__((always_inline)) void add_panel(const int16_t *x, size_t apart, const __m256i *panel, int n,
                                                            const int tokens, float (*out)[ROWS]) {
    __m256i sums[ABREAST][ROWS / 4];
    _Pragma("GCC unroll 3") for (int j = 0; j < tokens; j++)
        _Pragma("GCC unroll 4") for (int g = 0; g < ROWS / 4; g++) sums[j][g] = _mm256_setzero_si256();
    for (int at = 0; at < n; at += 4)
        _Pragma("GCC unroll 3") for (int j = 0; j < tokens; j++) {
            int64_t four;
            memcpy(&four, x + j * apart + at, sizeof four);
            _Pragma("GCC unroll 4") for (int g = 0; g < ROWS / 4; g++)
                add_pairs(&sums[j][g], panel + at + g, _mm256_set1_epi64x(four));
        }
    for (int j = 0; j < tokens; j++) add_rows(sums[j], out[j]);
}

/* ROWS rows of weights with all tokens. */
static void fill_product(State *s, const Phase *phase, int piece) {
    const Layer *layer = phase->layer;
    const size_t stride = layer->stride;
    const uint8_t *w = layer->rows + piece * ROWS * stride;
    __m256i panel[RUN]; /* [RUN / 4, ROWS, 4] */
    float out[MOST_FILLED][ROWS];
    memset(out, 0, sizeof(float) * ROWS * s->m);
    for (size_t begin = 0; begin < stride; begin += RUN) {
        const int n = stride - begin < RUN ? stride - begin : RUN;
        for (int i = 0; i < n; i++) panel[i] = widened(w + (begin + i) * ROWS);
        for (int token = 0; token < s->m;) {
            const int16_t *x = s->in.whole + token * stride + begin;
            switch (s->m - token) {
                case 1: add_panel(x, stride, panel, n, 1, out + token); break;
                case 2: add_panel(x, stride, panel, n, 2, out + token); break;
                default: add_panel(x, stride, panel, n, ABREAST, out + token);
            }
            token += ABREAST;
        }
    }
    for (int token = 0; token < s->m; token++) finish(s, phase, piece * ROWS, token, out[token]);
}

static void fill_multiply(State *s, const Layer *layer, float *y, int add) {
    run(s, (Phase){.piece = fill_product, .layer = layer, .y = y, .add = add}, blocks_of(layer));
}

/* The attention of all tokens, whose queries, keys and values are in y: to `joined`. */
static void fill_attention(State *s, const Block *block, half *memory) {
    const int m = s->m, position = s->position;
    float *const y = s->y, *const joined = s->joined;
    for (int first = 0; first < m; first += MOST) {
        s->m = m - first < MOST ? m - first : MOST, s->position = position + first;
        s->y = y + (size_t)first * block->qkv.n, s->joined = joined + (size_t)first * block->output.k;
        attention(s, block, NULL, memory);
    }
    s->m = m, s->position = position, s->y = y, s->joined = joined;
}
