/* Linear attention over a memory of fixed size: Mamba-2 and the gated delta net; see
   linear_memory.py. */

#pragma once

#include "causal_conv.h"

typedef struct {
    int64_t heads, key_dim, value_dim;
    int64_t heads_per_key; /* consecutive heads that share queries and keys */
    int64_t delta_rule;    /* the gated delta net; otherwise Mamba-2 */
    /* columns of a token's row, of its first head */
    int64_t queries, keys, values, decay_input, beta_input, gate;
    const float *decay_rate, *decay_bias; /* (heads,) */
    const float *skip;                    /* (heads,): Mamba-2's D */
    const float *norm;                    /* (value_dim,): the gated delta net's */
    const int64_t *places; /* (heads,): which place an output has among the heads', or NULL */
    float epsilon;
} LinearMemory;

/* Numbers of a head's row in the log: key, value, decay and beta. */
static int64_t memory_log_size(const LinearMemory *m) { return m->key_dim + m->value_dim + 2; }

/* Floats of scratch memory that a task needs. */
static int64_t memory_scratch_size(const LinearMemory *m)
{
    return m->key_dim * m->value_dim + memory_log_size(m) + m->key_dim + m->value_dim + LANES;
}

/* One token's input for one head; the layout of a row of the log. */
typedef struct {
    float *key, *value, *decay, *beta;
} MemoryInput;

static MemoryInput memory_input(const LinearMemory *m, float *row)
{
    float *value = row + m->key_dim;
    return (MemoryInput){row, value, value + m->value_dim, value + m->value_dim + 1};
}

/* Copy a vector, scaled to a length. */
static void scale_to_length(const float *x, int64_t size, float length, float *out)
{
    float sum = 0.0f;
    for (int64_t i = 0; i < size; i++)
        sum += x[i] * x[i];
    float scale = length / sqrtf(sum + 1e-6f);
    for (int64_t i = 0; i < size; i++)
        out[i] = x[i] * scale;
}

static float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

/* Compute a head's input and query from a token's row. */
static void read_memory_input(const LinearMemory *m, int64_t head, const float *row,
                              MemoryInput input, float *query)
{
    int64_t shared = head / m->heads_per_key * m->key_dim;
    const float *value = row + m->values + head * m->value_dim;
    float step = softplus(row[m->decay_input + head] + m->decay_bias[head]);
    *input.decay = expf(-m->decay_rate[head] * step);
    if (m->delta_rule) {
        scale_to_length(row + m->keys + shared, m->key_dim, 1.0f, input.key);
        scale_to_length(row + m->queries + shared, m->key_dim, 1.0f / sqrtf((float)m->key_dim),
                        query);
        *input.beta = 1.0f / (1.0f + expf(-row[m->beta_input + head]));
    } else {
        memcpy(input.key, row + m->keys + shared, (size_t)m->key_dim * sizeof *query);
        memcpy(query, row + m->queries + shared, (size_t)m->key_dim * sizeof *query);
        *input.beta = step;
    }
    memcpy(input.value, value, (size_t)m->value_dim * sizeof *value);
}

/* Let the memory decay and add what a token changes. Always the same code, so that a token which is
   read again gives the same memory bit for bit. */
static __attribute__((noinline)) void update_memory(const LinearMemory *m, MemoryInput input,
                                                    float *restrict memory, float *restrict change)
{
    int64_t width = m->value_dim;
    float decay = *input.decay, beta = *input.beta;
    for (int64_t v = 0; v < width; v++)
        change[v] = 0.0f;
    if (m->delta_rule)
        for (int64_t k = 0; k < m->key_dim; k++) {
            const float *restrict row = memory + k * width;
            for (int64_t v = 0; v < width; v++)
                change[v] += input.key[k] * row[v];
        }
    for (int64_t v = 0; v < width; v++)
        change[v] = (input.value[v] - decay * change[v]) * beta;
    for (int64_t k = 0; k < m->key_dim; k++) {
        float *restrict row = memory + k * width;
        for (int64_t v = 0; v < width; v++)
            row[v] = row[v] * decay + input.key[k] * change[v];
    }
}

/* The output of one head, with its gate. */
static void read_memory(const LinearMemory *m, int64_t head, const float *row, const float *query,
                        const float *restrict memory, float *restrict out)
{
    int64_t width = m->value_dim;
    const float *value = row + m->values + head * width, *gate = row + m->gate + head * width;
    for (int64_t v = 0; v < width; v++)
        out[v] = 0.0f;
    for (int64_t k = 0; k < m->key_dim; k++)
        for (int64_t v = 0; v < width; v++)
            out[v] += query[k] * memory[k * width + v];
    if (m->delta_rule) {
        float sum = 0.0f;
        for (int64_t v = 0; v < width; v++)
            sum += out[v] * out[v];
        float scale = 1.0f / sqrtf(sum / (float)width + m->epsilon);
        for (int64_t v = 0; v < width; v++)
            out[v] = out[v] * scale * m->norm[v] * silu(gate[v]);
    } else {
        for (int64_t v = 0; v < width; v++)
            out[v] = (out[v] + m->skip[head] * value[v]) * silu(gate[v]);
    }
}

/* One head of all new tokens of a sequence, whose memories are (heads, key_dim, value_dim).

   Args:
       rows: of the tokens, with `row_stride`.
       out: (tokens, heads, value_dim), with `out_stride`.
       scratch: see memory_scratch_size. */
static void linear_memory(const LinearMemory *m, const RecurrentInput *input, int64_t head,
                          const float *rows, int64_t row_stride, float *out, int64_t out_stride,
                          float *scratch)
{
    int64_t size = m->key_dim * m->value_dim;
    float *memory = input->state + head * size, *log = input->log + head * memory_log_size(m);
    float *query = scratch + size, *change = query + m->key_dim;
    MemoryInput own = memory_input(m, change + m->value_dim);
    for (int64_t t = 0; t < input->accepted; t++)
        update_memory(m, memory_input(m, log + t * input->log_stride), memory, change);
    for (int64_t t = 0; t < input->token_count; t++) {
        const float *row = rows + t * row_stride;
        MemoryInput new_input =
            t ? memory_input(m, log + (t - 1) * input->log_stride) : own;
        if (t == 1)
            memory = memcpy(scratch, memory, (size_t)size * sizeof *memory);
        read_memory_input(m, head, row, new_input, query);
        update_memory(m, new_input, memory, change);
        read_memory(m, head, row, query, memory,
                    out + t * out_stride + (m->places ? m->places[head] : head) * m->value_dim);
    }
}
