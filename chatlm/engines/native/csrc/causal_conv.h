/* A causal convolution over a few tokens, each channel by itself; see short_conv.py. */

#pragma once

#include "vectors.h"

enum { MAX_CONV_KERNEL = 8 }; /* tokens that a channel sees */
enum { CONV_BLOCK = 256 };    /* channels of one task */

typedef struct {
    int64_t channels, kernel_size;
    const float *weight; /* (kernel_size, channels) */
    const float *bias;   /* (channels,), or NULL */
    int64_t activate;    /* whether to apply SiLU */
} CausalConv;

/* What a recurrent layer keeps of a sequence: the state before its newest tokens but the first, and
   the inputs of these tokens, which may be dropped or be read into the state by the next call. */
typedef struct {
    float *state, *log;  /* the log has a row per token */
    int64_t accepted;    /* rows of the log that belong to the sequence */
    int64_t log_stride;  /* in floats, as all strides */
    int64_t token_count; /* new tokens */
} RecurrentInput;

/* Columns of a row per token. */
typedef struct {
    const float *x;
    const float *input_gate, *output_gate; /* factors of inputs and outputs, or NULL */
    float *out;
    int64_t stride, out_stride;
} ConvColumns;

/* Forget the oldest of the newest inputs. */
static void shift_window(float window[][CONV_BLOCK], int64_t size, const float *input,
                         int64_t count)
{
    for (int64_t k = 0; k + 1 < size; k++)
        memcpy(window[k], window[k + 1], (size_t)count * sizeof(float));
    if (size)
        memcpy(window[size - 1], input, (size_t)count * sizeof(float));
}

/* Convolve up to CONV_BLOCK channels from channel `from` on, for all new tokens of a sequence. */
static void causal_conv(const CausalConv *c, const RecurrentInput *input, ConvColumns columns,
                        int64_t from)
{
    int64_t count = min_i64(CONV_BLOCK, c->channels - from), size = c->kernel_size - 1;
    float window[MAX_CONV_KERNEL - 1][CONV_BLOCK], x[CONV_BLOCK], sum[CONV_BLOCK];
    for (int64_t k = 0; k < size; k++)
        memcpy(window[k], input->state + k * c->channels + from, (size_t)count * sizeof(float));
    for (int64_t t = 0; t < input->accepted; t++)
        shift_window(window, size, input->log + t * input->log_stride + from, count);
    for (int64_t t = 0; t < max_i64(input->token_count, 1); t++) {
        if (t < input->token_count) {
            const float *row = columns.x + t * columns.stride + from;
            for (int64_t i = 0; i < count; i++)
                x[i] = row[i];
            if (columns.input_gate)
                for (int64_t i = 0; i < count; i++)
                    x[i] *= columns.input_gate[t * columns.stride + from + i];
            for (int64_t i = 0; i < count; i++)
                sum[i] = x[i] * c->weight[size * c->channels + from + i];
            for (int64_t k = 0; k < size; k++)
                for (int64_t i = 0; i < count; i++)
                    sum[i] += window[k][i] * c->weight[k * c->channels + from + i];
            if (c->bias)
                for (int64_t i = 0; i < count; i++)
                    sum[i] += c->bias[from + i];
            if (c->activate)
                for (int64_t i = 0; i < count; i++)
                    sum[i] = silu(sum[i]);
            if (columns.output_gate)
                for (int64_t i = 0; i < count; i++)
                    sum[i] *= columns.output_gate[t * columns.stride + from + i];
            memcpy(columns.out + t * columns.out_stride + from, sum, (size_t)count * sizeof(float));
            shift_window(window, size, x, count);
        }
        if (t == 0)
            for (int64_t k = 0; k < size; k++)
                memcpy(input->state + k * c->channels + from, window[k],
                       (size_t)count * sizeof(float));
        else
            memcpy(input->log + (t - 1) * input->log_stride + from, x,
                   (size_t)count * sizeof(float));
    }
}
