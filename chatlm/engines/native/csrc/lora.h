/* LoRA: scale * B (A x), added to the product of a matrix. */

#pragma once

#include "vectors.h"

typedef struct {
    const element_t *lora_a; /* (rank, a_stride), rows padded with zeros */
    const element_t *lora_b; /* transposed: (rank, b_stride), at least LANES zeros after each row */
    int64_t rank;            /* 0: nothing is added */
    int64_t a_stride, b_stride;
    int64_t rows;            /* of the matrix */
    float scale;
} LoraPair;

/* hidden = scale * A x: (rank,). x has `a_stride` floats. */
static void lora_down(const LoraPair *a, const float *x, float *hidden)
{
    const element_t *row = a->lora_a;
    for (int64_t k = 0; k < a->rank; k++, row += a->a_stride) {
        f32x16 sum = {0};
        for (int64_t i = 0; i < a->a_stride; i += LANES)
            sum += load_elements(row + i) * load_f32x16(x + i);
        hidden[k] = a->scale * horizontal_sum(sum);
    }
}

/* y += multiplier * B hidden, for the rows [from, to). */
static void lora_up(const LoraPair *a, const float *hidden, int64_t from, int64_t to,
                    float multiplier, float *y)
{
    int64_t end = min_i64(to, a->rows);
    for (int64_t row = from; a->rank && row < end; row += LANES) {
        f32x16 sum = {0};
        for (int64_t k = 0; k < a->rank; k++)
            sum += load_elements(a->lora_b + k * a->b_stride + row) * hidden[k];
        for (int64_t i = 0; i < min_i64(LANES, end - row); i++)
            y[row + i] += multiplier * sum[i];
    }
}
