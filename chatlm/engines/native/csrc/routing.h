/* Which experts the tokens of a call use. They are grouped by expert, so that each chosen expert is
   read once. A token's experts are ordered by their indices, whatever other tokens are in the call.
   */

#pragma once

#include "model.h"

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
