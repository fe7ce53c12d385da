/* Products of a packed matrix with a block of a prompt, many vectors at once.

   A task expands some columns of a few panels into a buffer that stays in the cache, multiplies
   them with all vectors, and adds up the results of the columns. The layout of panels needs no transposition for that: a buffer of bfloat16 holds, for
   each pair of columns, both values of 16 rows, which is what AMX tiles and AVX-512's bfloat16
   products take. Elsewhere, and where activations are float32, the buffer holds floats. A result
   does not depend on the number of vectors. */

#pragma once

#include "matmul.h"

#if defined __AVX512BF16__ && !defined ELEMENT_IS_FLOAT32
#define HAS_BF16_PRODUCTS
typedef uint16_t buffer_t;
#else
typedef float buffer_t;
#endif

#if defined HAS_BF16_PRODUCTS && defined __AMX_BF16__ && defined __linux__
#define HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { TASK_PANELS = 8, TASK_COLUMNS = 2048, PASS_VECTORS = 512, VECTOR_BLOCK = 32 };
enum { TILE_VECTORS = 16, TILE_COLUMNS = 32, TILE_SIZE = TILE_VECTORS * TILE_COLUMNS };

/* A block of vectors and the results, for one matrix. */
typedef struct {
    /* (vectors / 16, width / 32, 16, 32), padded with zeros to VECTOR_BLOCK vectors: tiles that lie
       together, since rows a power of two apart would compete for the same cache lines */
    const element_t *x;
    element_t *y; /* (vectors, rows) */
    int64_t vectors;
} PromptBlock;

/* Copy a vector to its place in tiles. */
static void store_in_tiles(element_t *tiles, int64_t width, int64_t vector, const element_t *x,
                           int64_t columns)
{
    tiles += vector / TILE_VECTORS * TILE_VECTORS * width + vector % TILE_VECTORS * TILE_COLUMNS;
    for (int64_t i = 0; i < columns; i += TILE_COLUMNS)
        memcpy(tiles + i * TILE_VECTORS, x + i,
               (size_t)min_i64(TILE_COLUMNS, columns - i) * sizeof *x);
}

enum { PAIR_ROWS = 2 * LANES }; /* two panels are multiplied together */

/* What the two buffers of a thread hold: expanded weights, and results of PASS_VECTORS vectors. */
enum { PROMPT_BUFFER_SIZE = TASK_PANELS * LANES * TASK_COLUMNS };
enum { PROMPT_RESULTS_SIZE = TASK_PANELS * LANES * PASS_VECTORS };

static int64_t prompt_tasks(int64_t rows)
{
    return (rows + TASK_PANELS * LANES - 1) / (TASK_PANELS * LANES);
}

/* Whether the system lets this process use AMX. */
static bool may_use_amx(void)
{
#ifdef HAS_AMX
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

/* --- expanding panels ------------------------------------------------------------------------ */

/* Round to bfloat16 as processors with bfloat16 products do, so that results are the same. */
static inline f32x16 round_to_element(f32x16 values)
{
#ifndef ELEMENT_IS_FLOAT32
    i32x16 bits = (i32x16)values;
    values = (f32x16)((bits + 0x7fff + (bits >> 16 & 1)) & (int32_t)0xffff0000);
#endif
    return values;
}

/* Store the values of two adjacent columns; `out` advances by 32 values a pair. */
ALWAYS_INLINE void store_column_pair(f32x16 first, f32x16 second, buffer_t *out)
{
#ifdef HAS_BF16_PRODUCTS
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    both = _mm512_permutexvar_epi16(order, both);
    memcpy(out, &both, sizeof both);
#else
    first = round_to_element(first), second = round_to_element(second);
    memcpy(out, &first, sizeof first), memcpy(out + LANES, &second, sizeof second);
#endif
}

ALWAYS_INLINE void expand_quantized(const Format f, const uint8_t *panel, int64_t first,
                                    int64_t columns, buffer_t *out)
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
                for (int q = g * group_quads; q < (g + 1) * group_quads; q++, out += 4 * LANES) {
                    f32x16 values[4];
                    for (int k = 0; k < 4; k++)
                        values[k] =
                            __builtin_convertvector(quads[q] >> 8 * k & 255, f32x16) * scale
                            + minimum;
                    store_column_pair(values[0], values[1], out);
                    store_column_pair(values[2], values[3], out + 2 * LANES);
                }
            }
        }
    }
}

/* Expand `columns` columns of a panel from `first`, both multiples of 256 or up to the last. */
static void expand_panel(int64_t format, const uint8_t *panel, int64_t first, int64_t columns,
                         buffer_t *out)
{
    if (is_quantized(format)) {
        FOR_QUANTIZED_FORMAT(format, expand_quantized(FORMAT, panel, first, columns, out))
        return;
    }
    panel += panel_bytes(format, first);
#ifdef HAS_BF16_PRODUCTS
    if (format == BF16) {
        memcpy(out, panel, (size_t)(2 * LANES * columns));
        return;
    }
#endif
    for (int64_t i = 0; i < columns; i += 2, out += 2 * LANES) {
        f32x16 even, odd;
        if (format == BF16) {
            i32x16 words = load_i32x16(panel + 2 * LANES * i);
            even = bf16_low_to_f32(words), odd = bf16_high_to_f32(words);
        } else if (format == F16) {
            even = load_f16_as_f32(panel + 2 * LANES * i);
            odd = load_f16_as_f32(panel + 2 * LANES * (i + 1));
        } else {
            even = load_f32x16((const float *)panel + LANES * i);
            odd = load_f32x16((const float *)panel + LANES * (i + 1));
        }
        store_column_pair(even, odd, out);
    }
}

/* --- products -------------------------------------------------------------------------------- */

/* Two adjacent panels in the buffer, and a block of vectors that they are multiplied with. */
typedef struct {
    const buffer_t *panels; /* (2, columns, 16) */
    int64_t columns;
    const element_t *x; /* tiles, `x_stride` values from 16 vectors to the next */
    int64_t x_stride;
    const element_t *next; /* vectors to prefetch, `next_step` values per tile */
    int64_t next_step;
    float *results; /* (VECTOR_BLOCK, PAIR_ROWS), added to unless these are the first columns */
    bool is_first;
} PairProduct;

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

static void multiply_by_tiles(PairProduct p)
{
    const buffer_t *first = p.panels, *second = p.panels + LANES * p.columns;
    const element_t *lower = p.x + p.x_stride;
    float *below = p.results + TILE_VECTORS * PAIR_ROWS;
    enum { ROW_BYTES = PAIR_ROWS * sizeof(float) };
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
    for (int64_t i = 0; i < p.columns; i += TILE_COLUMNS, p.next += p.next_step) {
        for (int64_t line = 0; line < p.next_step; line += 32)
            _mm_prefetch((const char *)(p.next + line), _MM_HINT_T1);
        _tile_loadd(4, p.x + i * TILE_VECTORS, 64);
        _tile_loadd(5, lower + i * TILE_VECTORS, 64);
        _tile_loadd(6, first + i * LANES, 64);
        _tile_loadd(7, second + i * LANES, 64);
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

enum { VECTORS_AT_ONCE = 8 };

/* VECTORS_AT_ONCE vectors of a tile. */
ALWAYS_INLINE void multiply_vectors(PairProduct p)
{
    f32x16 sums[VECTORS_AT_ONCE][2] = {0};
    const buffer_t *first = p.panels, *second = p.panels + LANES * p.columns;
    if (!p.is_first)
        memcpy(sums, p.results, sizeof sums);
    for (int64_t tile = 0; tile < p.columns; tile += TILE_COLUMNS, p.x += TILE_SIZE)
        for (int64_t i = 0; i < TILE_COLUMNS; i += 2, first += 2 * LANES, second += 2 * LANES) {
#ifdef HAS_BF16_PRODUCTS
            i32x16 a = load_i32x16(first), b = load_i32x16(second);
            for (int v = 0; v < VECTORS_AT_ONCE; v++) {
                int32_t pair;
                memcpy(&pair, p.x + v * TILE_COLUMNS + i, sizeof pair);
                __m512bh values = (__m512bh)_mm512_set1_epi32(pair);
                sums[v][0] = (f32x16)_mm512_dpbf16_ps((__m512)sums[v][0], (__m512bh)a, values);
                sums[v][1] = (f32x16)_mm512_dpbf16_ps((__m512)sums[v][1], (__m512bh)b, values);
            }
#else
            for (int k = 0; k < 2; k++) {
                f32x16 a = load_f32x16(first + k * LANES), b = load_f32x16(second + k * LANES);
                for (int v = 0; v < VECTORS_AT_ONCE; v++) {
                    float value = element_to_float(p.x[v * TILE_COLUMNS + i + k]);
                    sums[v][0] += a * value, sums[v][1] += b * value;
                }
            }
#endif
        }
    memcpy(p.results, sums, sizeof sums);
}

static void multiply_pair(PairProduct p, int64_t vectors, bool use_amx)
{
#ifdef HAS_AMX
    if (use_amx) {
        multiply_by_tiles(p);
        return;
    }
#endif
    (void)use_amx;
    for (int64_t v = 0; v < vectors; v += VECTORS_AT_ONCE) {
        PairProduct some = p;
        some.x += v / TILE_VECTORS * p.x_stride + v % TILE_VECTORS * TILE_COLUMNS;
        some.results += v * PAIR_ROWS;
        multiply_vectors(some);
    }
}

static inline void store_elements(f32x16 values, element_t *out)
{
#ifdef ELEMENT_IS_FLOAT32
    memcpy(out, &values, sizeof values);
#else
    typedef uint16_t u16x16 __attribute__((vector_size(2 * LANES)));
    i32x16 bits = (i32x16)values, rounded = bits + 0x7fff + (bits >> 16 & 1);
    i32x16 is_nan = (bits & 0x7fffffff) > 0x7f800000;
    rounded = (rounded & ~is_nan) | (0x7fc00000 & is_nan);
    u16x16 halves = __builtin_convertvector(rounded >> 16, u16x16);
    memcpy(out, &halves, sizeof halves);
#endif
}

/* Store the results of 32 rows from `row` for some vectors. */
static void store_results(const PromptBlock *p, int64_t matrix_rows, const float *bias, int64_t row,
                          int64_t first, int64_t vectors, const float *results)
{
    for (int64_t v = 0; v < vectors; v++)
        for (int64_t r = row; r < min_i64(row + PAIR_ROWS, matrix_rows); r += LANES) {
            f32x16 values = load_f32x16(results + v * PAIR_ROWS + r - row);
            int64_t at = (first + v) * matrix_rows + r, count = min_i64(LANES, matrix_rows - r);
            element_t rounded[LANES];
            if (bias)
                values += load_f32x16(bias + r);
            if (count == LANES) {
                store_elements(values, p->y + at);
            } else {
                store_elements(values, rounded);
                memcpy(p->y + at, rounded, (size_t)count * sizeof *p->y);
            }
        }
}

/* The rows of one task and the vectors [from, to). */
static void multiply_pass(const uint8_t *panels, int64_t format, int64_t width, int64_t pairs,
                          const PromptBlock *p, int64_t from, int64_t to, bool use_amx,
                          buffer_t *buffer, float *results)
{
    for (int64_t column = 0; column < width; column += TASK_COLUMNS) {
        int64_t columns = min_i64(TASK_COLUMNS, width - column);
        for (int64_t panel = 0; panel < 2 * pairs; panel++)
            expand_panel(format, panels + panel * panel_bytes(format, width), column, columns,
                         buffer + panel * LANES * columns);
        for (int64_t v = from; v < to; v += VECTOR_BLOCK)
            for (int64_t pair = 0; pair < pairs; pair++) {
                int64_t step = v + VECTOR_BLOCK < to ? VECTOR_BLOCK * TILE_COLUMNS / pairs : 0;
                const element_t *x = p->x + v * width + column * TILE_VECTORS;
                const element_t *next = x + VECTOR_BLOCK * width;
                step = step / TILE_COLUMNS * TILE_COLUMNS;
                next += pair % 2 * TILE_VECTORS * width + pair / 2 * columns / TILE_COLUMNS * step;
                PairProduct product = {
                    buffer + pair * PAIR_ROWS * columns, columns, x, TILE_VECTORS * width,
                    next, step, results + (pair * PASS_VECTORS + v - from) * PAIR_ROWS,
                    column == 0,
                };
                multiply_pair(product, min_i64(VECTOR_BLOCK, to - v), use_amx);
            }
    }
}

/* The rows of one task. An odd last panel is followed by one of padding. */
static void multiply_prompt(const uint8_t *panels, int64_t format, int64_t width, int64_t rows,
                            const float *bias, const PromptBlock *p, int64_t task, bool use_amx,
                            buffer_t *buffer, float *results)
{
    int64_t first = task * TASK_PANELS, whole = (rows + LANES - 1) / LANES;
    int64_t pairs = (min_i64(TASK_PANELS, whole - first) + 1) / 2;
#ifdef HAS_AMX
    if (use_amx)
        load_tile_shapes();
#endif
    for (int64_t from = 0; from < p->vectors; from += PASS_VECTORS) {
        int64_t to = min_i64(from + PASS_VECTORS, p->vectors);
        multiply_pass(panels + first * panel_bytes(format, width), format, width, pairs, p, from,
                      to, use_amx, buffer, results);
        for (int64_t pair = 0; pair < pairs; pair++)
            store_results(p, rows, bias, (first + 2 * pair) * LANES, from, to - from,
                          results + pair * PASS_VECTORS * PAIR_ROWS);
    }
#ifdef HAS_AMX
    if (use_amx)
        _tile_release();
#endif
}
