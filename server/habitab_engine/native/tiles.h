/* Matrix units (AMX) for bytes; part of step.c. */

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    STRIP = 16, /* rows of a matrix register, and its columns of floats */
    LINE = 64,  /* bytes of its rows */
    TILED = 4,  /* tokens of a step from which on they are faster than vectors */
};

/* Whether the CPU has matrix units for bytes and bfloat16, and the system gives them to this process. */
static int matrix_units(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILES = 1 << 24, INT8 = 1 << 25, ALL = BF16 | TILES | INT8 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & ALL) != ALL) return 0;
    return !syscall(SYS_arch_prctl, REQUEST, TILE_DATA) && __builtin_cpu_supports("avx512bf16");
}

/* From here on until `_tile_release` this thread has matrix registers of the largest shape. */
static void tiles_on(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = LINE, shape.rows[i] = STRIP;
    _tile_loadconfig(&shape);
}

/* A row of the sums of high and of low bytes. */
static inline floats together(const int32_t *minus, const int32_t *high, const int32_t *low) {
    const ints a = *(const ints *)high + minus[0], b = *(const ints *)low + minus[1];
    return __builtin_convertvector(a, floats) * 128.0f + __builtin_convertvector(b, floats);
}

/* What `dots` computes, to the bit, for up to STRIP tokens; the rows of those behind the last are computed and left. */
static void dots_in_tiles(const Activations *in, const uint8_t *w, int stride, int m, float (*out)[ROWS]) {
    int32_t sums[2][STRIP * ROWS];
    _tile_zero(0);
    _tile_zero(1);
    for (int at = 0; at < stride; at += LINE) {
        const uint8_t *here = w + (size_t)at * ROWS;
        for (int i = 0; i < LINE * ROWS; i += LINE) __builtin_prefetch(here + AHEAD + i);
        _tile_loadd(4, in->bytes + at, 2 * stride);
        _tile_loadd(5, in->bytes + stride + at, 2 * stride);
        _tile_loadd(6, here, LINE);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 5, 6);
    }
    _tile_stored(0, sums[0], LINE);
    _tile_stored(1, sums[1], LINE);
    for (int j = 0; j < m; j++) store(out[j], together(in->minus[j], sums[0] + j * ROWS, sums[1] + j * ROWS));
}
