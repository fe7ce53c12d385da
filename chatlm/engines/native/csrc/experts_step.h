/* The steps of a mixture of experts: products of the chosen experts alone. The first gives the inner
   values of each slot, which is a token that uses an expert; the second adds the experts' outputs to
   the residual stream. A token's result does not depend on the others: its experts are added up in
   the order of their indices. */

#pragma once

#include "matmul_step.h"

/* The inner values of an expert: 16 of them. */
static inline f32x16 expert_activation(const Moe *m, f32x16 gate, f32x16 up)
{
    float g[LANES], u[LANES];
    memcpy(g, &gate, sizeof g), memcpy(u, &up, sizeof u);
    if (m->swiglu_limit == 0.0f) {
        for (int i = 0; i < LANES; i++)
            g[i] = g[i] / (1.0f + expf_approx(-g[i])) * u[i];
        return load_f32x16(g);
    }
    for (int i = 0; i < LANES; i++) {
        g[i] = g[i] > m->swiglu_limit ? m->swiglu_limit : g[i];
        u[i] = u[i] > m->swiglu_limit ? m->swiglu_limit : u[i];
        u[i] = u[i] < -m->swiglu_limit ? -m->swiglu_limit : u[i];
        g[i] = (u[i] + 1.0f) * g[i] / (1.0f + expf_approx(-m->swiglu_alpha * g[i]));
    }
    return load_f32x16(g);
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

/* Products of 16 rows from `row`, with their biases, for 1, 2 or 4 vectors. */
static void multiply_panel(const PackedMatrix *m, int64_t row, Activations x, int64_t count,
                           f32x16 *out)
{
    const uint8_t *panel = m->panels + row / LANES * panel_bytes(m->format, m->width);
    if (count == 1)
        dot_panel(m->format, panel, x, 1, out);
    else if (count == 2)
        dot_panel(m->format, panel, x, 2, out);
    else
        dot_panel(m->format, panel, x, 4, out);
    for (int64_t i = 0; m->bias && i < count; i++)
        out[i] += load_f32x16(m->bias + row);
}

/* How many of the vectors that are left are multiplied at once. */
static int64_t vectors_at_once(int64_t left) { return left >= 4 ? 4 : left >= 2 ? 2 : 1; }

/* Values of an expert's inner vector with padding, from one slot to the next. */
static int64_t inner_stride(const ExpertsStep *step) { return step->moe.down_proj->width; }

/* The inner values of one expert's rows [from, to), for all its slots: (slots, stride). */
static void expert_gate_up(const Moe *m, const Routing *routing, const ChosenExpert *chosen,
                           int64_t from, int64_t to, Activations x, Activations gathered,
                           float *inner, int64_t stride)
{
    const PackedMatrix *gate = &m->gate_proj[chosen->expert], *up = &m->up_proj[chosen->expert];
    int64_t end = chosen->first_slot + chosen->slots;
    for (int64_t slot = chosen->first_slot, count; slot < end; slot += count) {
        count = vectors_at_once(end - slot);
        Activations some = gather_activations(x, routing->tokens + slot, count, gathered);
        for (int64_t row = from; row < to; row += LANES) {
            f32x16 gates[MAX_VECTORS], ups[MAX_VECTORS];
            multiply_panel(gate, row, some, count, gates);
            multiply_panel(up, row, some, count, ups);
            for (int64_t i = 0; i < count; i++) {
                f32x16 values = expert_activation(m, gates[i], ups[i]);
                memcpy(inner + (slot + i) * stride + row, &values, sizeof values);
            }
        }
    }
}

/* Add the rows [from, to) of one expert's output to the tokens that use it, weighted. */
static void expert_down(const Moe *m, const Routing *routing, const ChosenExpert *chosen,
                        int64_t from, int64_t to, Activations inner, float multiplier, float *y,
                        int64_t y_stride)
{
    const PackedMatrix *down = &m->down_proj[chosen->expert];
    int64_t end = chosen->first_slot + chosen->slots;
    for (int64_t slot = chosen->first_slot, count; slot < end; slot += count) {
        count = vectors_at_once(end - slot);
        for (int64_t row = from; row < to; row += LANES) {
            f32x16 products[MAX_VECTORS];
            multiply_panel(down, row, activations_from(inner, slot), count, products);
            for (int64_t i = 0; i < count; i++) {
                float *out = y + routing->tokens[slot + i] * y_stride + row, sums[LANES];
                size_t size = (size_t)min_i64(LANES, down->rows - row) * sizeof *sums;
                memcpy(sums, out, size);
                f32x16 sum = load_f32x16(sums)
                             + multiplier * routing->weights[slot + i] * products[i];
                memcpy(out, &sum, size);
            }
        }
    }
}

/* --- the steps ------------------------------------------------------------------------------- */

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
    expert_gate_up(&step->moe, d->routing, &d->routing->chosen[task / tasks], from,
                   min_i64(from + rows, gate->rows), s->input, s->gathered,
                   d->buffers[step->inner_buffer], inner_stride(step));
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
    for (int64_t i = 0; i < routing->chosen_count; i++)
        expert_down(&step->moe, routing, &routing->chosen[i], from,
                    min_i64(from + rows, down->rows), s->input, step->multiplier,
                    d->buffers[RESIDUAL], d->strides[RESIDUAL]);
}
