/* Products of a packed matrix with a block of a prompt, many vectors at once.

   A task expands some columns of a few panels into a buffer that stays in the cache, multiplies them
   with all vectors, and adds up the results of the columns. A result depends neither on the number
   of vectors nor on how rows are divided into tasks. */

#pragma once

#include "prompt_floats.h"
#include "prompt_words.h"

enum { MAX_TASK_PANELS = 8, TASK_COLUMNS = 2048, PASS_VECTORS = 512 };

/* What the buffers of a thread hold, in floats: expanded weights, words for TASK_COLUMNS or floats
   for half as many, the factors of words, and results of PASS_VECTORS vectors. */
enum { PROMPT_WEIGHTS_SIZE = MAX_TASK_PANELS * LANES * TASK_COLUMNS / 2 };
enum { PROMPT_FACTORS_SIZE = MAX_TASK_PANELS * LANES * TASK_COLUMNS / 64 * MAX_WORD_FACTORS };
enum { PROMPT_RESULTS_SIZE = MAX_TASK_PANELS * LANES * PASS_VECTORS };

typedef struct {
    float *weights, *factors, *results;
} PromptBuffers;

/* Panels per task, in pairs: few enough to balance the load of small matrices. */
static int64_t task_panels(int64_t rows, int threads)
{
    int64_t pairs = (rows + PAIR_ROWS - 1) / PAIR_ROWS;
    return 2 * max_i64(min_i64(pairs / (4 * threads), MAX_TASK_PANELS / 2), 1);
}

static int64_t prompt_tasks(int64_t rows, int threads)
{
    int64_t task_rows = task_panels(rows, threads) * LANES;
    return (rows + task_rows - 1) / task_rows;
}

/* Store the results of some pairs of panels from `row` for some vectors. */
static void store_results(int64_t matrix_rows, const float *bias, int64_t row, int64_t pairs,
                          int64_t vectors, const float *results, float *y)
{
    int64_t end = min_i64(row + pairs * PAIR_ROWS, matrix_rows);
    for (int64_t v = 0; v < vectors; v++, y += matrix_rows, results += PAIR_ROWS) {
        const float *from = results;
        for (int64_t r = row; r < end; r += LANES) {
            f32x16 values = load_f32x16(from);
            if (bias)
                values += load_f32x16(bias + r);
            if (r + LANES <= matrix_rows)
                memcpy(y + r, &values, sizeof values);
            else
                memcpy(y + r, &values, (size_t)(matrix_rows - r) * sizeof *y);
            bool is_second = (r - row) / LANES % 2;
            from += is_second ? PASS_VECTORS * PAIR_ROWS - LANES : LANES;
        }
    }
}

/* Columns that are multiplied at once. */
static int64_t task_columns(PromptForm form)
{
    return has_words(form) ? TASK_COLUMNS : TASK_COLUMNS / 2;
}

/* Multiply `columns` columns from `column` of `pairs` pairs of panels with the vectors [from, to),
   whose results follow PASS_VECTORS * PAIR_ROWS floats after those of the pair before. */

#ifdef HAS_WORD_PRODUCTS
static void multiply_as_words(const uint8_t *panels, int64_t format, int64_t column,
                              int64_t columns, int64_t pairs, const PromptVectors *p, int64_t from,
                              int64_t to, PromptBuffers buffers)
{
    Format f = quantized_format(format); /* all zero for floats of 16 bits */
    int16_t *words = (int16_t *)buffers.weights;
    f32x16 *factors = (f32x16 *)buffers.factors;
    int64_t panel_factors = columns / 64 * word_factors(f), x_stride = TILE_VECTORS * p->width;
    for (int64_t panel = 0; panel < 2 * pairs; panel++) {
        const uint8_t *from = panels + panel * panel_bytes(format, p->width);
        int16_t *to_words = words + panel * LANES * columns;
        f32x16 *to_factors = factors + panel * panel_factors;
        if (!is_quantized(format))
            expand_floats(format, from, column, columns, to_words, to_factors);
        FOR_QUANTIZED_FORMAT(format, expand_words(FORMAT, from, column, columns, to_words,
                                                  to_factors))
    }
    const float *sums = f.group == 16 ? p->sums_of_16 : p->sums_of_32;
    int64_t sum_columns = f.group == 16 ? 16 : 32;
    for (int64_t v = from; v < to; v += VECTOR_BLOCK)
        for (int64_t pair = 0; pair < pairs; pair++) {
            WordProduct product = {
                .words = words + pair * PAIR_ROWS * columns,
                .factors = factors + 2 * pair * panel_factors,
                .columns = columns,
                .x = (const int16_t *)p->values + v * p->width + column * TILE_VECTORS,
                .x_scales = p->scales + (v * p->width + column) / ACTIVATION_GROUP,
                .x_sums = sums + (v * p->width + column) / sum_columns,
                .x_pair_products = p->form == AS_PAIRED_WORDS
                                       ? p->pair_products + (v * p->width + column) / 32
                                       : NULL,
                .scale_stride = p->width / ACTIVATION_GROUP,
                .sum_stride = p->width / sum_columns,
                .pair_stride = p->width / 32,
                .results = buffers.results + (pair * PASS_VECTORS + v - from) * PAIR_ROWS,
                .is_first = column == 0,
            };
            multiply_words_block(f, product, x_stride, min_i64(VECTOR_BLOCK, to - v));
        }
}
#endif

#ifdef HAS_AMX
static void multiply_as_split_bf16(const uint8_t *panels, int64_t format, int64_t column,
                                   int64_t columns, int64_t pairs, const PromptVectors *p,
                                   int64_t from, int64_t to, PromptBuffers buffers)
{
    bool is_split = format != BF16;
    int64_t stride = panel_bytes(format, p->width);
    const uint8_t *weights = panels + panel_bytes(BF16, column);
    for (int64_t panel = 0; is_split && panel < 2 * pairs; panel++) {
        float *values = buffers.weights + panel * LANES * columns;
        expand_values(format, panels + panel * stride, column, columns, values);
        split_values(values, columns);
    }
    if (is_split)
        weights = (uint8_t *)buffers.weights, stride = panel_bytes(F32, columns);
    for (int64_t v = from; v < to; v += VECTOR_BLOCK)
        for (int64_t pair = 0; pair < pairs; pair++) {
            const uint8_t *first = weights + 2 * pair * stride;
            const uint16_t *x = (const uint16_t *)p->values + v * p->width + column * TILE_VECTORS;
            multiply_split((SplitProduct){
                .first = first,
                .second = first + stride,
                .has_small_parts = is_split,
                .columns = columns,
                .x = x,
                .small_x = x + padded_values(p),
                .x_stride = TILE_VECTORS * p->width,
                .results = buffers.results + (pair * PASS_VECTORS + v - from) * PAIR_ROWS,
                .is_first = column == 0,
            });
        }
}
#endif

static void multiply_as_floats(const uint8_t *panels, int64_t format, int64_t column,
                               int64_t columns, int64_t pairs, const PromptVectors *p, int64_t from,
                               int64_t to, PromptBuffers buffers)
{
    for (int64_t panel = 0; panel < 2 * pairs; panel++)
        expand_values(format, panels + panel * panel_bytes(format, p->width), column, columns,
                      buffers.weights + panel * LANES * columns);
    for (int64_t block = from; block < to; block += VECTOR_BLOCK)
        for (int64_t pair = 0; pair < pairs; pair++)
            for (int64_t v = block; v < min_i64(block + VECTOR_BLOCK, to); v += FLOAT_VECTORS)
                multiply_floats((FloatProduct){
                    .panels = buffers.weights + pair * PAIR_ROWS * columns,
                    .columns = columns,
                    .x = (const float *)p->values + tile_offset(p, v, column),
                    .results = buffers.results + (pair * PASS_VECTORS + v - from) * PAIR_ROWS,
                    .is_first = column == 0,
                });
}

/* Multiply `pairs` pairs of panels with the vectors [from, to), PASS_VECTORS at most; the results of
   a pair follow PASS_VECTORS * PAIR_ROWS floats after those of the pair before. An odd last panel is
   followed by one of padding. */
static void multiply_panels(const uint8_t *panels, int64_t format, int64_t pairs,
                            const PromptVectors *p, int64_t from, int64_t to, PromptBuffers buffers)
{
    int64_t step = task_columns(p->form);
#ifdef HAS_AMX
    if (p->form == AS_SPLIT_BF16)
        load_tile_shapes();
#endif
    for (int64_t column = 0; column < p->width; column += step) {
        int64_t columns = min_i64(step, p->width - column);
        switch (p->form) {
#ifdef HAS_WORD_PRODUCTS
        case AS_WORDS:
        case AS_PAIRED_WORDS:
            multiply_as_words(panels, format, column, columns, pairs, p, from, to, buffers);
            break;
#endif
#ifdef HAS_AMX
        case AS_SPLIT_BF16:
            multiply_as_split_bf16(panels, format, column, columns, pairs, p, from, to, buffers);
            break;
#endif
        default:
            multiply_as_floats(panels, format, column, columns, pairs, p, from, to, buffers);
        }
    }
#ifdef HAS_AMX
    if (p->form == AS_SPLIT_BF16)
        _tile_release();
#endif
}

/* The rows of one task; the results, (vectors, rows), are written to `y`. */
static void multiply_prompt(const uint8_t *panels, int64_t format, int64_t rows, const float *bias,
                            const PromptVectors *p, int64_t task, int threads,
                            PromptBuffers buffers, float *y)
{
    int64_t per_task = task_panels(rows, threads), first = task * per_task;
    int64_t pairs = (min_i64(per_task, (rows + LANES - 1) / LANES - first) + 1) / 2;
    panels += first * panel_bytes(format, p->width);
    for (int64_t from = 0; from < p->vectors; from += PASS_VECTORS) {
        int64_t to = min_i64(from + PASS_VECTORS, p->vectors);
        multiply_panels(panels, format, pairs, p, from, to, buffers);
        store_results(rows, bias, first * LANES, pairs, to - from, buffers.results,
                      y + from * rows);
    }
}
