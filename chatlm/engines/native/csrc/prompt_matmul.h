/* Products of a packed matrix with a block of a prompt, many vectors at once.

   A task expands a few panels into a buffer that stays in the cache, and multiplies them with all
   vectors. The layout of panels needs no transposition for that: a buffer of bfloat16 holds, for
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

enum { PROMPT_BUFFER_BYTES = 512 * 1024, MAX_TASK_PANELS = 8, VECTOR_BLOCK = 32 };

/* A block of vectors and the results, for one matrix. */
typedef struct {
    const element_t *x; /* (vectors padded to VECTOR_BLOCK, width), zeros after the columns */
    element_t *y;       /* (vectors, rows), or NULL */
    float *y_float;     /* the same as floats, or NULL */
    int64_t vectors;
} PromptBlock;

/* Even, so that panels can be taken in pairs. */
static int64_t task_panels(int64_t width)
{
    int64_t panels = PROMPT_BUFFER_BYTES / (width * LANES * (int64_t)sizeof(buffer_t)) & ~1;
    return max_i64(2, min_i64(panels, MAX_TASK_PANELS));
}

/* Values that the buffer of a thread holds. */
static int64_t prompt_buffer_size(int64_t width) { return task_panels(width) * LANES * width; }

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
    values = (f32x16)(bits + 0x7fff + (bits >> 16 & 1) & (int32_t)0xffff0000);
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

ALWAYS_INLINE void expand_quantized(const Format f, const uint8_t *block, int64_t width,
                                    buffer_t *out)
{
    const int slab_groups = SLAB / f.group, group_quads = f.group / 4;
    for (int64_t column = 0; column < width; column += block_columns(f), block += block_bytes(f)) {
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

static void expand_panel(int64_t format, const uint8_t *panel, int64_t width, buffer_t *out)
{
    if (is_quantized(format)) {
        FOR_QUANTIZED_FORMAT(format, expand_quantized(FORMAT, panel, width, out))
        return;
    }
#ifdef HAS_BF16_PRODUCTS
    if (format == BF16) {
        memcpy(out, panel, (size_t)(2 * LANES * width));
        return;
    }
#endif
    for (int64_t i = 0; i < width; i += 2, out += 2 * LANES) {
        f32x16 first, second;
        if (format == BF16) {
            i32x16 words = load_i32x16(panel + 2 * LANES * i);
            first = bf16_low_to_f32(words), second = bf16_high_to_f32(words);
        } else if (format == F16) {
            first = load_f16_as_f32(panel + 2 * LANES * i);
            second = load_f16_as_f32(panel + 2 * LANES * (i + 1));
        } else {
            first = load_f32x16((const float *)panel + LANES * i);
            second = load_f32x16((const float *)panel + LANES * (i + 1));
        }
        store_column_pair(first, second, out);
    }
}

/* --- products -------------------------------------------------------------------------------- */

/* Products of two adjacent panels in the buffer with VECTOR_BLOCK vectors: (vectors, 32). */

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

static void multiply_by_tiles(const buffer_t *panels, int64_t width, const element_t *x, float *out)
{
    const buffer_t *first = panels, *second = panels + LANES * width;
    const element_t *lower = x + LANES * width;
    size_t stride = (size_t)width * sizeof *x;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < width; i += 32) {
        _tile_loadd(4, x + i, stride);
        _tile_loadd(5, lower + i, stride);
        _tile_loadd(6, first + i * LANES, 64);
        _tile_loadd(7, second + i * LANES, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, 128);
    _tile_stored(1, out + LANES, 128);
    _tile_stored(2, out + 16 * 32, 128);
    _tile_stored(3, out + 16 * 32 + LANES, 128);
}

#endif

enum { VECTORS_AT_ONCE = 8 };

/* `count` vectors with both panels. */
ALWAYS_INLINE void multiply_vectors(const buffer_t *panels, int64_t width, const element_t *x,
                                    float *out)
{
    f32x16 sums[VECTORS_AT_ONCE][2] = {0};
    const buffer_t *first = panels, *second = panels + LANES * width;
    for (int64_t i = 0; i < width; i += 2, first += 2 * LANES, second += 2 * LANES) {
#ifdef HAS_BF16_PRODUCTS
        i32x16 a = load_i32x16(first), b = load_i32x16(second);
        for (int v = 0; v < VECTORS_AT_ONCE; v++) {
            int32_t pair;
            memcpy(&pair, x + v * width + i, sizeof pair);
            __m512bh values = (__m512bh)_mm512_set1_epi32(pair);
            sums[v][0] = (f32x16)_mm512_dpbf16_ps((__m512)sums[v][0], (__m512bh)a, values);
            sums[v][1] = (f32x16)_mm512_dpbf16_ps((__m512)sums[v][1], (__m512bh)b, values);
        }
#else
        for (int k = 0; k < 2; k++) {
            f32x16 a = load_f32x16(first + k * LANES), b = load_f32x16(second + k * LANES);
            for (int v = 0; v < VECTORS_AT_ONCE; v++) {
                float value = element_to_float(x[v * width + i + k]);
                sums[v][0] += a * value, sums[v][1] += b * value;
            }
        }
#endif
    }
    memcpy(out, sums, sizeof sums);
}

static void multiply_block(bool use_amx, const buffer_t *panels, int64_t width, const element_t *x,
                           int64_t vectors, float *out)
{
#ifdef HAS_AMX
    if (use_amx) {
        multiply_by_tiles(panels, width, x, out);
        return;
    }
#endif
    (void)use_amx;
    for (int64_t v = 0; v < vectors; v += VECTORS_AT_ONCE)
        multiply_vectors(panels, width, x + v * width, out + v * 2 * LANES);
}

/* Store results of `count` rows from `row` for some vectors. */
static void store_results(const PromptBlock *p, int64_t matrix_rows, const float *bias, int64_t row,
                          int64_t first, int64_t vectors, const float *results)
{
    int64_t count = min_i64(2 * LANES, matrix_rows - row);
    for (int64_t v = 0; v < vectors; v++, results += 2 * LANES)
        for (int64_t i = 0; i < count; i++) {
            float value = bias ? results[i] + bias[row + i] : results[i];
            int64_t at = (first + v) * matrix_rows + row + i;
            if (p->y_float)
                p->y_float[at] = value;
            else
                p->y[at] = float_to_element(value);
        }
}

/* The rows of one task. */
static void multiply_prompt(const uint8_t *panels, int64_t format, int64_t width, int64_t rows,
                            const float *bias, const PromptBlock *p, int64_t task, bool use_amx,
                            buffer_t *buffer)
{
    int64_t first = task * task_panels(width), whole = (rows + LANES - 1) / LANES;
    int64_t last = min_i64(first + task_panels(width), whole);
    _Alignas(64) float results[VECTOR_BLOCK * 2 * LANES];
    for (int64_t panel = first; panel < last; panel++)
        expand_panel(format, panels + panel * panel_bytes(format, width), width,
                     buffer + (panel - first) * LANES * width);
    if ((last - first) % 2)
        memset(buffer + (last - first) * LANES * width, 0,
               (size_t)(LANES * width) * sizeof *buffer);
#ifdef HAS_AMX
    if (use_amx)
        load_tile_shapes();
#endif
    for (int64_t v = 0; v < p->vectors; v += VECTOR_BLOCK) {
        int64_t vectors = min_i64(VECTOR_BLOCK, p->vectors - v);
        for (int64_t panel = first; panel < last; panel += 2) {
            multiply_block(use_amx, buffer + (panel - first) * LANES * width, width,
                           p->x + v * width, vectors, results);
            store_results(p, rows, bias, panel * LANES, v, vectors, results);
        }
    }
#ifdef HAS_AMX
    if (use_amx)
        _tile_release();
#endif
}
