/* What a LoRA adapter adds to a matrix's product with a vector: scale * up (down x). */

#pragma once

#include "rows.h"

typedef struct {
    const number *down; /* (rank, width): zeros stand behind the adapter's own numbers */
    const number *up;   /* (rank, stride), turned, with at least LANES zeros behind each row */
    int64_t rank;       /* 0 where nothing is added */
    int64_t width, stride;
    int64_t first, count; /* rows of the packed matrix that it adds to */
    float scale;
} Addition;

/* scale * down x: (rank,). x has `width` floats. */
static void project_down(const Addition *a, const float *x, float *low)
{
    const number *row = a->down;
    for (int64_t k = 0; k < a->rank; k++, row += a->width) {
        lanes sum = {0};
        for (int64_t i = 0; i < a->width; i += LANES)
            sum += widened(row + i) * load(x + i);
        low[k] = a->scale * total(sum);
    }
}

/* y += up low, for those rows of the packed matrix that are between two. */
static void project_up(const Addition *a, const float *low, int64_t from, int64_t to, float *y)
{
    int64_t row = greater(from - a->first, 0), end = lesser(to - a->first, a->count);
    for (y += a->first; a->rank && row < end; row += LANES) {
        lanes sum = {0};
        for (int64_t k = 0; k < a->rank; k++)
            sum += widened(a->up + k * a->stride + row) * low[k];
        for (int64_t i = 0; i < lesser(LANES, end - row); i++)
            y[row + i] += sum[i];
    }
}
