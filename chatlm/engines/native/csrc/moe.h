/* Mixtures of experts: which experts a router chooses, and the products of these alone.

   The tokens of a call are grouped by expert, so that each chosen expert is read once. A token's
   experts are added up in the order of their indices; its result therefore does not depend on
   which other tokens are in the call. */

#pragma once

#include "model.h"

enum { MAX_EXPERTS_PER_TOKEN = 16 };
enum { MAX_SLOTS = MAX_STEP_TOKENS * (MAX_EXPERTS_PER_TOKEN + 1) }; /* with a shared expert */

typedef struct {
    /* one per expert; a shared expert, which all tokens use, comes after the others */
    const PackedMatrix *gate_proj, *up_proj, *down_proj;
    int64_t num_experts, num_experts_per_tok;
    int64_t normalised; /* whether a token's weights sum to 1, rather than those of all experts */
    int64_t has_shared;
    float swiglu_limit, swiglu_alpha; /* of clamped SwiGLU; a limit of 0 stands for plain SwiGLU */
} Moe;

/* An expert, and which slots belong to it. A slot is a token that uses the expert. */
typedef struct {
    int64_t expert, first_slot, slots;
} ChosenExpert;

/* The experts of all tokens of a call, ordered by their indices. */
typedef struct {
    int64_t chosen_count, slot_count;
    ChosenExpert chosen[MAX_SLOTS];
    int64_t tokens[MAX_SLOTS];
    float weights[MAX_SLOTS];
} Routing;

/* --- routing --------------------------------------------------------------------------------- */

/* The experts with the largest logits, the lower index first among equals, and their weights. */
static void choose_experts(const Moe *m, const float *logits, int64_t *experts, float *weights)
{
    for (int64_t k = 0; k < m->num_experts_per_tok; k++) {
        int64_t best = -1;
        for (int64_t e = 0; e < m->num_experts; e++) {
            bool is_taken = false;
            for (int64_t i = 0; i < k; i++)
                is_taken |= experts[i] == e;
            if (!is_taken && (best < 0 || logits[e] > logits[best]))
                best = e;
        }
        experts[k] = best;
    }
    float largest = logits[experts[0]], sum = 0.0f;
    for (int64_t k = 0; k < m->num_experts_per_tok; k++)
        weights[k] = expf_approx(logits[experts[k]] - largest), sum += weights[k];
    if (!m->normalised) {
        sum = 0.0f;
        for (int64_t e = 0; e < m->num_experts; e++)
            sum += expf_approx(logits[e] - largest);
    }
    for (int64_t k = 0; k < m->num_experts_per_tok; k++)
        weights[k] /= sum;
}

/* Route `tokens` tokens by their logits, `stride` floats apart; that of a shared expert's gate
   follows those of the experts. */
static void route_tokens(const Moe *m, const float *logits, int64_t stride, int64_t tokens,
                         Routing *out)
{
    int64_t experts[MAX_STEP_TOKENS][MAX_EXPERTS_PER_TOKEN];
    float weights[MAX_STEP_TOKENS][MAX_EXPERTS_PER_TOKEN];
    out->chosen_count = out->slot_count = 0;
    for (int64_t t = 0; t < tokens; t++)
        choose_experts(m, logits + t * stride, experts[t], weights[t]);
    for (int64_t e = 0; e < m->num_experts + m->has_shared; e++) {
        ChosenExpert chosen = {e, out->slot_count, 0};
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t k = 0; k < (e < m->num_experts ? m->num_experts_per_tok : 1); k++) {
                bool is_shared = e == m->num_experts;
                if (!is_shared && experts[t][k] != e)
                    continue;
                float gate = is_shared ? 1.0f / (1.0f + expf_approx(-logits[t * stride + e])) : 0.0f;
                out->tokens[out->slot_count] = t;
                out->weights[out->slot_count++] = is_shared ? gate : weights[t][k];
            }
        chosen.slots = out->slot_count - chosen.first_slot;
        if (chosen.slots)
            out->chosen[out->chosen_count++] = chosen;
    }
}

/* --- decoding -------------------------------------------------------------------------------- */

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
    inner.stride = down->width;
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
