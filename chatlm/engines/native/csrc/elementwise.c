/* Steps of a prompt's forward pass that torch needs several operations for, each with a tensor of
   its own: RMSNorm, additions to the residual, gates and RoPE. All compute in float32 and round
   once. Numbers are float32 or bfloat16; the former is told by the size of an element. */

#include "vectors.h"

enum { BLOCK = 64 };

static inline void load_block(const void *from, int64_t element_size, int64_t first, int64_t count,
                              float out[BLOCK])
{
    if (element_size == sizeof(float)) {
        memcpy(out, (const float *)from + first, (size_t)count * sizeof *out);
        return;
    }
    const uint16_t *values = (const uint16_t *)from + first;
    if (count == BLOCK)
        for (int i = 0; i < BLOCK; i++)
            out[i] = bf16_to_float(values[i]);
    else
        for (int64_t i = 0; i < count; i++)
            out[i] = bf16_to_float(values[i]);
}

static inline void store_block(const float values[BLOCK], int64_t element_size, int64_t first,
                               int64_t count, void *to)
{
    if (element_size == sizeof(float)) {
        memcpy((float *)to + first, values, (size_t)count * sizeof *values);
        return;
    }
    uint16_t *out = (uint16_t *)to + first;
    if (count == BLOCK)
        for (int i = 0; i < BLOCK; i++)
            out[i] = float_to_bf16(values[i]);
    else
        for (int64_t i = 0; i < count; i++)
            out[i] = float_to_bf16(values[i]);
}

/* out = x / sqrt(mean(x^2) + epsilon) * weight for each of `rows` rows of `size` numbers. */
void norm_rows(const void *x, int64_t x_size, const void *weight, int64_t weight_size, int64_t rows,
               int64_t size, float epsilon, void *out, int64_t out_size)
{
    float values[BLOCK], weights[BLOCK];
    for (int64_t row = 0; row < rows; row++) {
        double sum = 0;
        for (int64_t i = 0; i < size; i += BLOCK) {
            int64_t count = min_i64(BLOCK, size - i);
            memset(values, 0, sizeof values);
            load_block(x, x_size, row * size + i, count, values);
            f32x16 lanes = {0};
            for (int k = 0; k < BLOCK; k += LANES)
                lanes += load_f32x16(values + k) * load_f32x16(values + k);
            sum += (double)horizontal_sum(lanes);
        }
        float scale = 1.0f / sqrtf((float)(sum / (double)size) + epsilon);
        for (int64_t i = 0; i < size; i += BLOCK) {
            int64_t count = min_i64(BLOCK, size - i);
            load_block(x, x_size, row * size + i, count, values);
            load_block(weight, weight_size, i, count, weights);
            for (int k = 0; k < BLOCK; k++)
                values[k] = values[k] * scale * weights[k];
            store_block(values, out_size, row * size + i, count, out);
        }
    }
}

/* residual += multiplier * x */
void add_to_residual(float *residual, const void *x, int64_t x_size, float multiplier,
                     int64_t count)
{
    float values[BLOCK];
    for (int64_t i = 0; i < count; i += BLOCK) {
        int64_t some = min_i64(BLOCK, count - i);
        load_block(x, x_size, i, some, values);
        for (int64_t k = 0; k < some; k++)
            residual[i + k] += multiplier * values[k];
    }
}

/* out = activation(gate) * up; the activation is SiLU, or GELU in its approximation by tanh. */
void apply_gate(bool is_gelu, const void *gate, const void *up, int64_t element_size, int64_t count,
                void *out)
{
    float gates[BLOCK] = {0}, ups[BLOCK] = {0};
    for (int64_t i = 0; i < count; i += BLOCK) {
        int64_t some = min_i64(BLOCK, count - i);
        load_block(gate, element_size, i, some, gates);
        load_block(up, element_size, i, some, ups);
        if (is_gelu)
            for (int k = 0; k < BLOCK; k++)
                ups[k] *= gelu_tanh(gates[k]);
        else
            for (int k = 0; k < BLOCK; k++)
                ups[k] *= gates[k] / (1.0f + expf_approx(-gates[k]));
        store_block(ups, element_size, i, some, out);
    }
}

static inline float load_element(const void *from, int64_t element_size, int64_t at)
{
    return element_size == sizeof(float) ? ((const float *)from)[at]
                                         : bf16_to_float(((const uint16_t *)from)[at]);
}

static inline void store_element(float value, int64_t element_size, int64_t at, void *to)
{
    if (element_size == sizeof(float))
        ((float *)to)[at] = value;
    else
        ((uint16_t *)to)[at] = float_to_bf16(value);
}

/* Rotate pairs of one row; `second` is the distance of the two, `step` that of pairs. */
ALWAYS_INLINE void rotate_row(const void *x, int64_t from, const void *cos, const void *sin,
                              int64_t angles, int64_t pairs, int64_t second, int64_t step,
                              const int64_t element_size, void *out, int64_t to)
{
    for (int64_t i = 0; i < pairs; i++) {
        int64_t at = i * step;
        float a = load_element(x, element_size, from + at);
        float b = load_element(x, element_size, from + at + second);
        float c = load_element(cos, element_size, angles + at);
        float s = load_element(sin, element_size, angles + at);
        store_element(a * c - b * s, element_size, to + at, out);
        store_element(b * c + a * s, element_size, to + at + second, out);
    }
}

/* Rotate queries or keys by RoPE: `out` is (heads, tokens, head_dim), as `x` with these strides;
   `cos` and `sin` are (tokens, rotary_dim), where both numbers of a pair have the same angle. */
void rotate_heads(const void *x, int64_t element_size, int64_t heads, int64_t tokens,
                  int64_t head_dim, int64_t head_stride, int64_t token_stride, const void *cos,
                  const void *sin, int64_t rotary_dim, bool is_interleaved, void *out)
{
    int64_t pairs = rotary_dim / 2, second = is_interleaved ? 1 : pairs;
    int64_t step = is_interleaved ? 2 : 1;
    for (int64_t head = 0; head < heads; head++)
        for (int64_t token = 0; token < tokens; token++) {
            int64_t from = head * head_stride + token * token_stride;
            int64_t to = (head * tokens + token) * head_dim, angles = token * rotary_dim;
            if (element_size == sizeof(float))
                rotate_row(x, from, cos, sin, angles, pairs, second, step, sizeof(float), out, to);
            else
                rotate_row(x, from, cos, sin, angles, pairs, second, step, sizeof(uint16_t), out,
                           to);
            if (rotary_dim < head_dim)
                memcpy((char *)out + (to + rotary_dim) * element_size,
                       (const char *)x + (from + rotary_dim) * element_size,
                       (size_t)((head_dim - rotary_dim) * element_size));
        }
}
