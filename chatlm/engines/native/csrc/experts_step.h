/* The steps of a mixture of experts: products of the chosen experts alone. The first gives the inner
   values of each slot, which is a token that uses an expert; the second adds the experts' outputs to
   the residual stream. A token's result does not depend on the others: its experts are added up in
   the order of their indices. */

#pragma once

#include "matmul_step.h"

/* Turn `count` products of gate_proj and up_proj into inner values, in place of the former. */
static void activate_experts(const Moe *m, float *gate, const float *up, int64_t count)
{
    float limit = m->swiglu_limit, alpha = m->swiglu_alpha;
    if (limit == 0.0f) {
        for (int64_t i = 0; i < count; i++)
            gate[i] = gate[i] / (1.0f + expf_approx(-gate[i])) * up[i];
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float g = gate[i] > limit ? limit : gate[i];
        float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
        gate[i] = (u + 1.0f) * g / (1.0f + expf_approx(-alpha * g));
    }
}

/* The activations of some tokens next to each other: copied to `into` unless they are already. */
static Activations gather_activations(Activations x, const int64_t *tokens, int64_t count,
                                      Activations into)
{
    bool is_consecutive = true;
    for (int64_t i = 1; i < count; i++)
        is_consecutive &= tokens[i] == tokens[0] + i;
    if (is_consecutive)
        return activations_from(x, tokens[0]);
    into.stride = x.stride;
    for (int64_t i = 0; i < count; i++) {
        Activations from = activations_from(x, tokens[i]), to = activations_from(into, i);
        memcpy((float *)to.values, from.values, (size_t)x.stride * sizeof *from.values);
        memcpy(to.q_high, from.q_high, (size_t)x.stride);
        memcpy(to.q_low, from.q_low, (size_t)x.stride);
        memcpy(to.scales, from.scales, (size_t)(x.stride / ACTIVATION_GROUP) * sizeof(float));
        memcpy(to.sums_of_16, from.sums_of_16, (size_t)(x.stride / 16) * sizeof(float));
        memcpy(to.sums_of_32, from.sums_of_32, (size_t)(x.stride / 32) * sizeof(float));
    }
    return into;
}

/* --- the steps ------------------------------------------------------------------------------- */

/* Values of an expert's inner vector with padding, from one slot to the next. */
static int64_t inner_stride(const ExpertsStep *step) { return step->moe.down_proj->width; }

static int64_t experts_gate_up_tasks(const Decoder *d, const ExpertsStep *step)
{
    return d->routing->chosen_count * matrix_tasks(d, step->moe.gate_proj);
}

/* One task: some rows of one chosen expert. */
static void run_experts_gate_up(const Decoder *d, int64_t phase, const ExpertsStep *step,
                                int64_t task, ThreadScratch *s)
{
    const PackedMatrix *gate = step->moe.gate_proj;
    if (!is_prepared(d, phase, s)) {
        s->input.values = s->prepared, s->input.stride = gate->width;
        for (int64_t t = 0; t < d->token_count; t++) {
            float *values = s->prepared + t * gate->width;
            read_residual(d, t, step->norm, values);
            for (int64_t i = d->model.hidden_size; i < gate->width; i++)
                values[i] = 0.0f;
            if (is_quantized(gate->format))
                quantize_activations(activations_from(s->input, t));
        }
    }
    int64_t tasks = matrix_tasks(d, gate), rows = rows_per_task(d, gate), from = task % tasks * rows;
    int64_t to = min_i64(from + rows, gate->rows), stride = inner_stride(step);
    const ChosenExpert *chosen = &d->routing->chosen[task / tasks];
    int64_t slot = chosen->first_slot, end = slot + chosen->slots;
    for (int64_t count; slot < end; slot += count) {
        count = vectors_at_once(end - slot);
        Activations x = gather_activations(s->input, d->routing->tokens + slot, count, s->gathered);
        OutputVectors gates = {d->buffers[step->inner_buffer] + slot * stride, stride};
        OutputVectors ups = {d->buffers[step->up_buffer] + slot * stride, stride};
        multiply_rows(&gate[chosen->expert], from, to, x, gates, false, 1.0f, count);
        multiply_rows(&step->moe.up_proj[chosen->expert], from, to, x, ups, false, 1.0f, count);
        for (int64_t i = from; i < count * stride + from; i += stride)
            activate_experts(&step->moe, gates.data + i, ups.data + i, to - from);
    }
}

/* Rows of all chosen experts' outputs that one task computes. */
static int64_t experts_down_rows(const Decoder *d, const ExpertsStep *step)
{
    int64_t tasks = d->num_threads * TASKS_PER_THREAD;
    return round_up(max_i64(step->moe.down_proj->rows / tasks, 1), LANES);
}

static int64_t experts_down_tasks(const Decoder *d, const ExpertsStep *step)
{
    int64_t rows = experts_down_rows(d, step);
    return (step->moe.down_proj->rows + rows - 1) / rows;
}

/* One task: some rows of the output, of which each chosen expert has its part. */
static void run_experts_down(const Decoder *d, int64_t phase, const ExpertsStep *step, int64_t task,
                             ThreadScratch *s)
{
    const PackedMatrix *down = step->moe.down_proj;
    const Routing *routing = d->routing;
    if (!is_prepared(d, phase, s)) {
        s->input.values = d->buffers[step->inner_buffer], s->input.stride = down->width;
        for (int64_t slot = 0; is_quantized(down->format) && slot < routing->slot_count; slot++)
            quantize_activations(activations_from(s->input, slot));
    }
    int64_t rows = experts_down_rows(d, step), from = task * rows;
    int64_t to = min_i64(from + rows, down->rows), y_stride = d->strides[RESIDUAL];
    OutputVectors products = {s->prepared, step->moe.gate_proj->width};
    for (int64_t i = 0; i < routing->chosen_count; i++) {
        const ChosenExpert *chosen = &routing->chosen[i];
        int64_t slot = chosen->first_slot, end = slot + chosen->slots;
        for (int64_t count; slot < end; slot += count) {
            count = vectors_at_once(end - slot);
            multiply_rows(&down[chosen->expert], from, to, activations_from(s->input, slot),
                          products, false, 1.0f, count);
            for (int64_t v = 0; v < count; v++) {
                float *y = d->buffers[RESIDUAL] + routing->tokens[slot + v] * y_stride;
                float weight = step->multiplier * routing->weights[slot + v];
                for (int64_t row = from; row < to; row++)
                    y[row] += weight * products.data[v * products.stride + row];
            }
        }
    }
}
