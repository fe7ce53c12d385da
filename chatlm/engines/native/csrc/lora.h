/* What a LoRA adapter adds to a matrix's product with a vector: scale * up (down x). */

#pragma once

#include "packing.h"

typedef struct {
    const element_t *lora_a; /* (rank, width): zeros stand behind the adapter's own numbers */
    const element_t *lora_b; /* (rank, stride), turned, with at least LANES zeros behind each row */
    int64_t rank;            /* 0 where nothing is added */
    int64_t a_stride, b_stride;
    int64_t first_row, rows; /* rows of the packed matrix that it adds to */
    float scale;
} LoraPair;

/* scale * down x: (rank,). x has `width` floats. */
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

/* y += up low, for those rows of the packed matrix that are between two. */
static void lora_up(const LoraPair *a, const float *hidden, int64_t from, int64_t to, float *y)
{
    int64_t row = max_i64(from - a->first_row, 0), end = min_i64(to - a->first_row, a->rows);
    for (y += a->first_row; a->rank && row < end; row += LANES) {
        f32x16 sum = {0};
        for (int64_t k = 0; k < a->rank; k++)
            sum += load_elements(a->lora_b + k * a->b_stride + row) * hidden[k];
        for (int64_t i = 0; i < min_i64(LANES, end - row); i++)
            y[row + i] += sum[i];
    }
}
