/* Products of a matrix that was expanded to floats, or of one in bfloat16, with vectors of a prompt.

   The layout of panels needs no transposition for that: those of bfloat16 hold, for each two columns,
   both values of 16 rows, which is what AMX tiles take. */

#pragma once

#include "prompt_vectors.h"

/* --- expanding panels ------------------------------------------------------------------------ */

#if !defined HAS_WORD_PRODUCTS || defined HAS_AMX
ALWAYS_INLINE void expand_quantized(const Format f, const uint8_t *panel, int64_t first,
                                    int64_t columns, float *out)
{
    const int slab_groups = SLAB / f.group, group_quads = f.group / 4;
    const uint8_t *block = panel + first / block_columns(f) * block_bytes(f);
    for (int64_t column = 0; column < columns; column += block_columns(f), block += block_bytes(f)) {
        for (int s = 0; s < block_columns(f) / SLAB; s++) {
            i32x16 quads[SLAB_QUADS];
            unpack_slab(f, block + codes_offset(f) + s * slab_bytes(f), quads);
            for (int g = 0; g < slab_groups; g++) {
                f32x16 scale = group_scale(f, block, s * slab_groups + g);
                if (f.two_level)
                    scale *= block_scale(block);
                f32x16 minimum = (float)-f.zero * scale;
                if (f.has_minimums)
                    minimum = group_minimum(f, block, s * slab_groups + g);
                if (f.has_minimums && f.two_level)
                    minimum *= block_minimum(block);
                for (int q = g * group_quads; q < (g + 1) * group_quads; q++)
                    for (int k = 0; k < 4; k++, out += LANES) {
                        f32x16 codes = __builtin_convertvector(quads[q] >> 8 * k & 255, f32x16);
                        f32x16 values = codes * scale + minimum;
                        memcpy(out, &values, sizeof values);
                    }
            }
        }
    }
}
#endif

/* Expand `columns` columns of a panel from `first`, both multiples of 256 or up to the last. */
static void expand_values(int64_t format, const uint8_t *panel, int64_t first, int64_t columns,
                          float *out)
{
    if (is_quantized(format)) {
#if !defined HAS_WORD_PRODUCTS || defined HAS_AMX
        FOR_QUANTIZED_FORMAT(format, expand_quantized(FORMAT, panel, first, columns, out))
#endif
        return;
    }
    panel += panel_bytes(format, first);
    if (format == F32) {
        memcpy(out, panel, (size_t)(LANES * columns) * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < columns; i += 2, panel += 4 * LANES, out += 2 * LANES) {
        f32x16 both[2];
        load_two_columns(format, panel, both);
        memcpy(out, both, sizeof both);
    }
}

/* --- floats ---------------------------------------------------------------------------------- */

#ifdef __AVX512F__
enum { FLOAT_VECTORS = 8 }; /* vectors at once, whose sums fill the registers */
#else
enum { FLOAT_VECTORS = 2 };
#endif

/* Two adjacent panels that were expanded, and some vectors of a tile. */
typedef struct {
    const float *panels; /* (2, columns, 16) */
    int64_t columns;
    const float *x;
    float *results; /* (vectors, PAIR_ROWS) */
    bool is_first;  /* of the columns; others are added */
} FloatProduct;

static void multiply_floats(FloatProduct p)
{
    f32x16 sums[FLOAT_VECTORS][2] = {0};
    const float *first = p.panels, *second = p.panels + LANES * p.columns;
    if (!p.is_first)
        memcpy(sums, p.results, sizeof sums);
    for (int64_t tile = 0; tile < p.columns; tile += TILE_COLUMNS, p.x += TILE_SIZE)
        for (int64_t i = 0; i < TILE_COLUMNS; i++, first += LANES, second += LANES) {
            f32x16 a = load_f32x16(first), b = load_f32x16(second);
            for (int v = 0; v < FLOAT_VECTORS; v++) {
                float value = p.x[v * TILE_COLUMNS + i];
                sums[v][0] += a * value, sums[v][1] += b * value;
            }
        }
    memcpy(p.results, sums, sizeof sums);
}

/* --- sums of two numbers in bfloat16 --------------------------------------------------------- */

#ifdef HAS_AMX

static void load_tile_shapes(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++)
        config.row_bytes[i] = 64, config.rows[i] = 16;
    _tile_loadconfig(&config);
}

/* Replace the values of a panel, (columns, 16), by the two parts of each: for each two columns, the
   larger parts of 16 rows, (16, 2), then the others. */
static void split_values(float *values, int64_t columns)
{
    for (int64_t i = 0; i < columns; i += 2, values += 2 * LANES) {
        f32x16 even = load_f32x16(values), odd = load_f32x16(values + LANES);
        f32x16 large_even = round_to_bf16(even), large_odd = round_to_bf16(odd);
        f32x16 small_even = round_to_bf16(even - large_even);
        f32x16 small_odd = round_to_bf16(odd - large_odd);
        i32x16 parts[2] = {
            ((i32x16)large_even >> 16 & 0xffff) | (i32x16)large_odd,
            ((i32x16)small_even >> 16 & 0xffff) | (i32x16)small_odd,
        };
        memcpy(values, parts, sizeof parts);
    }
}

/* Two adjacent panels that were split or are bfloat16, and VECTOR_BLOCK vectors. */
typedef struct {
    const uint8_t *first, *second; /* (columns / 2, 16, 2), or with two parts: see split_values */
    bool has_small_parts;
    int64_t columns;
    const uint16_t *x, *small_x; /* tiles, `x_stride` values from 16 vectors to the next */
    int64_t x_stride;
    float *results; /* (VECTOR_BLOCK, PAIR_ROWS), added to unless these are the first columns */
    bool is_first;
} SplitProduct;

/* All products of two parts but those of both smaller ones, which are below float's precision or
   near it. */
static void multiply_split(SplitProduct p)
{
    enum { ROW_BYTES = PAIR_ROWS * sizeof(float), PART_BYTES = 2 * LANES * sizeof(uint16_t) };
    float *below = p.results + TILE_VECTORS * PAIR_ROWS;
    int64_t bytes = p.has_small_parts ? 2 * PART_BYTES : PART_BYTES; /* of two columns */
    if (p.is_first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, p.results, ROW_BYTES);
        _tile_loadd(1, p.results + LANES, ROW_BYTES);
        _tile_loadd(2, below, ROW_BYTES);
        _tile_loadd(3, below + LANES, ROW_BYTES);
    }
    for (int64_t i = 0; i < p.columns; i += TILE_COLUMNS) {
        const uint16_t *x = p.x + i * TILE_VECTORS, *small_x = p.small_x + i * TILE_VECTORS;
        const uint8_t *first = p.first + i / 2 * bytes, *second = p.second + i / 2 * bytes;
        _tile_loadd(6, first, bytes);
        _tile_loadd(7, second, bytes);
        _tile_loadd(4, small_x, 64);
        _tile_loadd(5, small_x + p.x_stride, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, x, 64);
        _tile_loadd(5, x + p.x_stride, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        if (!p.has_small_parts)
            continue;
        _tile_loadd(6, first + PART_BYTES, bytes);
        _tile_loadd(7, second + PART_BYTES, bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, p.results, ROW_BYTES);
    _tile_stored(1, p.results + LANES, ROW_BYTES);
    _tile_stored(2, below, ROW_BYTES);
    _tile_stored(3, below + LANES, ROW_BYTES);
}

#endif
