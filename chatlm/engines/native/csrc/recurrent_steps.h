/* The steps of recurrent layers: convolutions and linear attention, whose state each sequence keeps.

   A call leaves the state after the first new token of a sequence, which is certain, and logs the
   inputs of the others, which may be drafts. The next call reads those that were kept. */

#pragma once

#include "model.h"

static RecurrentInput recurrent_input(const SequenceInput *sequence, int64_t state, int64_t log)
{
    return (RecurrentInput){sequence->state + state, sequence->log ? sequence->log + log : NULL,
                            sequence->accepted, sequence->log_stride, sequence->token_count};
}

static int64_t conv_tasks_per_sequence(const ConvStep *step)
{
    return (step->conv.channels + CONV_BLOCK - 1) / CONV_BLOCK;
}

static int64_t count_sequences(const Decoder *d)
{
    int64_t count = 0;
    for (int64_t t = 0; t < d->token_count; t += d->tokens[t].sequence->token_count)
        count++;
    return count;
}

static int64_t conv_step_tasks(const Decoder *d, const ConvStep *step)
{
    return count_sequences(d) * conv_tasks_per_sequence(step);
}

static int64_t memory_step_tasks(const Decoder *d, const MemoryStep *step)
{
    return count_sequences(d) * step->memory.heads;
}

/* The first token of the sequence of a task, with `per_sequence` tasks each. */
static int64_t first_token(const Decoder *d, int64_t task, int64_t per_sequence)
{
    int64_t token = 0;
    for (; task >= per_sequence; task -= per_sequence)
        token += d->tokens[token].sequence->token_count;
    return token;
}

/* One task: some channels of one sequence. */
static void convolve(const Decoder *d, const ConvStep *step, const SequenceInput *sequence,
                     int64_t token, int64_t block)
{
    int64_t stride = d->strides[step->input_buffer], out = d->strides[step->output_buffer];
    const float *rows = d->buffers[step->input_buffer] + token * stride;
    RecurrentInput input = recurrent_input(sequence, step->state, step->log);
    ConvColumns columns = {
        .x = rows + step->input,
        .input_gate = step->input_gate < 0 ? NULL : rows + step->input_gate,
        .output_gate = step->output_gate < 0 ? NULL : rows + step->output_gate,
        .out = d->buffers[step->output_buffer] + token * out + step->output,
        .stride = stride,
        .out_stride = out,
    };
    causal_conv(&step->conv, &input, columns, block * CONV_BLOCK);
}

static void run_conv(const Decoder *d, const ConvStep *step, int64_t task)
{
    int64_t per_sequence = conv_tasks_per_sequence(step);
    int64_t token = first_token(d, task, per_sequence);
    convolve(d, step, d->tokens[token].sequence, token, task % per_sequence);
}

/* One task: one head of one sequence. */
static void remember(const Decoder *d, const MemoryStep *step, const SequenceInput *sequence,
                     int64_t token, int64_t head, float *scratch)
{
    int64_t stride = d->strides[step->input_buffer], out = d->strides[step->output_buffer];
    RecurrentInput input = recurrent_input(sequence, step->state, step->log);
    linear_memory(&step->memory, &input, head, d->buffers[step->input_buffer] + token * stride,
                  stride, d->buffers[step->output_buffer] + token * out, out, scratch);
}

static void run_memory(const Decoder *d, const MemoryStep *step, int64_t task, float *scratch)
{
    int64_t token = first_token(d, task, step->memory.heads);
    remember(d, step, d->tokens[token].sequence, token, task % step->memory.heads, scratch);
}

/* What follows the last task. */
static void finish_memory(const Decoder *d, const MemoryStep *step)
{
    int64_t size = step->memory.heads * step->memory.value_dim / max_i64(step->norm_groups, 1);
    for (int64_t t = 0; t < d->token_count && step->norm; t++) {
        float *out = d->buffers[step->output_buffer] + t * d->strides[step->output_buffer];
        for (int64_t group = 0; group < step->norm_groups; group++, out += size)
            rms_norm(out, step->norm + group * size, size, step->memory.epsilon, out);
    }
}

/* Read the tokens that a sequence has kept into its state; it has no new ones. */
static void settle_state(const Decoder *d, const SequenceInput *sequence, float *scratch)
{
    const Model *m = &d->model;
    for (const Step *step = m->steps; step < m->steps + m->step_count; step++)
        if (step->kind == STEP_CONV)
            for (int64_t i = 0; i < conv_tasks_per_sequence(step->detail); i++)
                convolve(d, step->detail, sequence, 0, i);
        else if (step->kind == STEP_MEMORY)
            for (int64_t i = 0; i < ((const MemoryStep *)step->detail)->memory.heads; i++)
                remember(d, step->detail, sequence, 0, i, scratch);
}
