/* Mixtures of experts over a block of a prompt: its tokens are grouped by expert, and each expert
   that any of them uses is multiplied with its tokens as in prompt_matmul.h. */

#pragma once

#include "experts_step.h"

enum { EXPERT_PANELS = TASK_PANELS / 2 }; /* so that two matrices' results fit a thread's buffer */
enum { EXPERT_RESULTS = EXPERT_PANELS * LANES * PASS_VECTORS };

/* A block of a prompt, its routing and the buffers of its computation. */
struct ExpertsPrompt {
    const Moe *moe;
    const ChosenExpert *chosen; /* those with at least one slot */
    const int64_t *tile_slots;  /* for each of them, where its slots begin in the tiles */
    int64_t chosen_count;
    const int64_t *tokens; /* of each slot */
    const float *weights;
    const element_t *x; /* (vectors, columns) */
    int64_t vectors, columns;
    element_t *x_tiles, *inner_tiles; /* as in PromptBlock, slots padded per expert */
    float *y;                         /* (vectors, rows of down_proj) */
};

/* One task: arrange the input of one chosen expert, and clear the padding of what it computes. */
static void prompt_experts_input(const ExpertsPrompt *p, int64_t task)
{
    const ChosenExpert *chosen = &p->chosen[task];
    int64_t width = p->moe->gate_proj[chosen->expert].width;
    int64_t inner_width = p->moe->down_proj[chosen->expert].width;
    int64_t padded = round_up(chosen->slots, VECTOR_BLOCK);
    element_t *x = p->x_tiles + p->tile_slots[task] * width;
    memset(x, 0, (size_t)(padded * width) * sizeof *x);
    memset(p->inner_tiles + p->tile_slots[task] * inner_width, 0,
           (size_t)(padded * inner_width) * sizeof *x);
    for (int64_t i = 0; i < chosen->slots; i++)
        store_in_tiles(x, width, i, p->x + p->tokens[chosen->first_slot + i] * p->columns,
                       p->columns);
}

/* Products of EXPERT_PANELS panels from `panel` with the vectors [from, to). */
static void multiply_expert(const PackedMatrix *m, int64_t panel, const element_t *tiles,
                            int64_t vectors, int64_t from, int64_t to, bool use_amx,
                            buffer_t *buffer, float *results)
{
    PromptBlock block = {tiles, NULL, vectors};
    int64_t panels = min_i64(EXPERT_PANELS, (m->rows + LANES - 1) / LANES - panel);
    multiply_pass(m->panels + panel * panel_bytes(m->format, m->width), m->format, m->width,
                  (panels + 1) / 2, &block, from, to, use_amx, buffer, results);
}

/* 16 results for one vector, with their biases. */
static inline f32x16 expert_result(const PackedMatrix *m, const float *results, int64_t first_row,
                                   int64_t row, int64_t vector)
{
    int64_t offset = row - first_row, pair = offset / PAIR_ROWS;
    f32x16 values =
        load_f32x16(results + (pair * PASS_VECTORS + vector) * PAIR_ROWS + offset % PAIR_ROWS);
    return m->bias ? values + load_f32x16(m->bias + row) : values;
}

static int64_t expert_row_tasks(int64_t rows)
{
    return (rows + EXPERT_PANELS * LANES - 1) / (EXPERT_PANELS * LANES);
}

static int64_t prompt_experts_down_tasks(const ExpertsPrompt *p)
{
    return expert_row_tasks(p->moe->down_proj->rows);
}

static int64_t prompt_experts_gate_up_tasks(const ExpertsPrompt *p)
{
    return p->chosen_count * expert_row_tasks(p->moe->gate_proj->rows);
}

/* One task: some inner values of one chosen expert. */
static void prompt_experts_gate_up(const ExpertsPrompt *p, int64_t task, bool use_amx,
                                  buffer_t *buffer, float *results)
{
    int64_t row_tasks = expert_row_tasks(p->moe->gate_proj->rows), index = task / row_tasks;
    const ChosenExpert *chosen = &p->chosen[index];
    const PackedMatrix *gate = &p->moe->gate_proj[chosen->expert];
    const PackedMatrix *up = &p->moe->up_proj[chosen->expert];
    int64_t panel = task % row_tasks * EXPERT_PANELS, first_row = panel * LANES;
    int64_t end_row = min_i64(first_row + EXPERT_PANELS * LANES, gate->rows);
    int64_t inner_width = p->moe->down_proj[chosen->expert].width;
    const element_t *x = p->x_tiles + p->tile_slots[index] * gate->width;
    element_t *inner = p->inner_tiles + p->tile_slots[index] * inner_width;
    float *up_results = results + EXPERT_RESULTS;
    for (int64_t from = 0; from < chosen->slots; from += PASS_VECTORS) {
        int64_t to = min_i64(from + PASS_VECTORS, chosen->slots);
        multiply_expert(gate, panel, x, chosen->slots, from, to, use_amx, buffer, results);
        multiply_expert(up, panel, x, chosen->slots, from, to, use_amx, buffer, up_results);
        for (int64_t v = from; v < to; v++)
            for (int64_t row = first_row; row < end_row; row += LANES) {
                f32x16 values = expert_result(gate, results, first_row, row, v - from);
                f32x16 ups = expert_result(up, up_results, first_row, row, v - from);
                activate_experts(p->moe, (float *)&values, (const float *)&ups, LANES);
                store_elements(values, inner + v / TILE_VECTORS * TILE_VECTORS * inner_width
                                           + row / TILE_COLUMNS * TILE_SIZE
                                           + v % TILE_VECTORS * TILE_COLUMNS + row % TILE_COLUMNS);
            }
    }
}

/* One task: some rows of the output, for all experts and vectors. */
static void prompt_experts_down(const ExpertsPrompt *p, int64_t task, bool use_amx, buffer_t *buffer,
                               float *results)
{
    int64_t rows = p->moe->down_proj->rows, panel = task * EXPERT_PANELS;
    int64_t first_row = panel * LANES, end_row = min_i64(first_row + EXPERT_PANELS * LANES, rows);
    for (int64_t v = 0; v < p->vectors; v++)
        memset(p->y + v * rows + first_row, 0, (size_t)(end_row - first_row) * sizeof *p->y);
    for (int64_t index = 0; index < p->chosen_count; index++) {
        const ChosenExpert *chosen = &p->chosen[index];
        const PackedMatrix *down = &p->moe->down_proj[chosen->expert];
        const element_t *inner = p->inner_tiles + p->tile_slots[index] * down->width;
        for (int64_t from = 0; from < chosen->slots; from += PASS_VECTORS) {
            int64_t to = min_i64(from + PASS_VECTORS, chosen->slots);
            multiply_expert(down, panel, inner, chosen->slots, from, to, use_amx, buffer, results);
            for (int64_t v = from; v < to; v++) {
                float *out = p->y + p->tokens[chosen->first_slot + v] * rows;
                float weight = p->weights[chosen->first_slot + v], sums[LANES];
                for (int64_t row = first_row; row < end_row; row += LANES) {
                    size_t size = (size_t)min_i64(LANES, rows - row) * sizeof *sums;
                    memcpy(sums, out + row, size);
                    f32x16 sum = load_f32x16(sums)
                                 + weight * expert_result(down, results, first_row, row, v - from);
                    memcpy(out + row, &sum, size);
                }
            }
        }
    }
}
