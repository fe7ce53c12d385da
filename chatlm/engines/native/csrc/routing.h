/* Which experts the tokens of a call use. They are grouped by expert, so that each chosen expert is
   read once. A token's experts are ordered by their indices, whatever other tokens are in the call.
   */

#pragma once

#include "model.h"

static const float SIGMOID_EPSILON = 1e-6f; /* added to the sum of sigmoids that divides them */

static inline float sigmoid(float x) { return 1.0f / (1.0f + expf_approx(-x)); }

/* The experts with the largest scores, which are their logits unless there is a bias, the lower
   index first among equals; and their weights. */
static void choose_experts(const Moe *m, const float *logits, int64_t *experts, float *weights)
{
    float scores[MAX_EXPERTS_PER_TOKEN];
    int64_t count = 0, most = m->num_experts_per_tok;
    for (int64_t e = 0; e < m->num_experts; e++) {
        float score = m->choice_bias ? sigmoid(logits[e]) + m->choice_bias[e] : logits[e];
        if (count == most && !(score > scores[most - 1]))
            continue;
        int64_t at = count < most ? count++ : most - 1;
        for (; at > 0 && score > scores[at - 1]; at--)
            scores[at] = scores[at - 1], experts[at] = experts[at - 1];
        scores[at] = score, experts[at] = e;
    }
    if (m->has_sigmoids) {
        float total = SIGMOID_EPSILON;
        for (int64_t k = 0; k < most; k++)
            weights[k] = sigmoid(logits[experts[k]]), total += weights[k];
        for (int64_t k = 0; k < most; k++)
            weights[k] = weights[k] / (m->normalised ? total : 1.0f) * m->scaling;
        return;
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
        weights[k] = weights[k] / sum * m->scaling;
}

/* Route `tokens` tokens by their logits, `stride` floats apart. */
static void route_tokens(const Moe *m, const float *logits, int64_t stride, int64_t tokens,
                         Routing *out)
{
    int64_t experts[MAX_STEP_TOKENS][MAX_EXPERTS_PER_TOKEN];
    float weights[MAX_STEP_TOKENS][MAX_EXPERTS_PER_TOKEN];
    out->chosen_count = out->slot_count = 0;
    for (int64_t t = 0; t < tokens; t++)
        choose_experts(m, logits + t * stride, experts[t], weights[t]);
    for (int64_t e = 0; e < m->num_experts; e++) {
        ChosenExpert chosen = {e, out->slot_count, 0};
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t k = 0; k < m->num_experts_per_tok; k++)
                if (experts[t][k] == e) {
                    out->tokens[out->slot_count] = t;
                    out->weights[out->slot_count++] = weights[t][k];
                }
        chosen.slots = out->slot_count - chosen.first_slot;
        if (chosen.slots)
            out->chosen[out->chosen_count++] = chosen;
    }
}
