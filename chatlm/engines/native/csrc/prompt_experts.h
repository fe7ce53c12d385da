/* Mixtures of experts over a block of a prompt: its tokens are grouped by expert, and each expert
   that any of them uses is multiplied with its tokens as in prompt_matmul.h. */

#pragma once

#include "experts_step.h"

enum { EXPERT_PANELS = MAX_TASK_PANELS / 2 }; /* so that a thread's results hold two matrices' */
enum { EXPERT_RESULTS = EXPERT_PANELS * LANES * PASS_VECTORS };

/* An expert that at least one slot uses, and the vectors of its slots. */
typedef struct {
    ChosenExpert chosen;
    PromptVectors gate_x, up_x; /* the same values where both matrices take the same form */
    PromptVectors inner;
} ExpertPrompt;

/* A block of a prompt, its routing and the buffers of its computation. */
struct ExpertsPrompt {
    const Moe *moe;
    ExpertPrompt *experts;
    int64_t expert_count;
    const int64_t *tokens; /* of each slot */
    const float *weights;
    int64_t vectors;
    float *inner; /* (slots, rows of gate_proj) */
    float *y;     /* (vectors, rows of down_proj) */
};

/* Fill in the vectors of each expert. `area` is where their values go, or NULL. Returns the floats
   that these take. */
static int64_t place_experts_prompt(ExpertsPrompt *p, const float *x, int64_t columns,
                                    float *area)
{
    const Moe *moe = p->moe;
    int64_t inner_size = moe->gate_proj->rows, size = 0;
    for (ExpertPrompt *e = p->experts; e < p->experts + p->expert_count; e++) {
        int64_t slot = e->chosen.first_slot, slots = e->chosen.slots;
        e->gate_x = (PromptVectors){
            .input = x, .rows = p->tokens + slot, .vectors = slots, .columns = columns,
            .width = moe->gate_proj->width, .form = prompt_form(moe->gate_proj->format)};
        e->up_x = e->gate_x;
        e->up_x.form = prompt_form(moe->up_proj->format);
        e->inner = (PromptVectors){
            .input = area ? p->inner + slot * inner_size : NULL, .vectors = slots, .columns = inner_size,
            .width = moe->down_proj->width, .form = prompt_form(moe->down_proj->format)};
        PromptVectors *each[] = {&e->gate_x, &e->up_x, &e->inner};
        for (int i = 0; i < 3; i++) {
            bool is_shared = i == 1 && e->up_x.form == e->gate_x.form;
            if (area)
                place_prompt_vectors(each[i], is_shared ? e->gate_x.values : area + size);
            size += is_shared ? 0 : prompt_vectors_size(each[i]);
        }
    }
    return size;
}

/* Where a phase's task is: which expert, and which of its own tasks. */
typedef struct {
    const ExpertPrompt *expert;
    int64_t task;
} ExpertTask;

static ExpertTask find_expert_task(const ExpertsPrompt *p, int64_t task)
{
    const ExpertPrompt *e = p->experts;
    for (int64_t own; own = prompt_vectors_tasks(&e->inner), task >= own; e++)
        task -= own;
    return (ExpertTask){e, task};
}

/* Tasks that convert vectors of all experts. */
static int64_t prompt_experts_convert_tasks(const ExpertsPrompt *p)
{
    int64_t tasks = 0;
    for (int64_t i = 0; i < p->expert_count; i++)
        tasks += prompt_vectors_tasks(&p->experts[i].inner);
    return tasks;
}

/* One task: convert some inputs of one expert. */
static void prompt_experts_input(const ExpertsPrompt *p, int64_t task)
{
    ExpertTask own = find_expert_task(p, task);
    convert_prompt_vectors(&own.expert->gate_x, own.task);
    if (own.expert->up_x.form != own.expert->gate_x.form)
        convert_prompt_vectors(&own.expert->up_x, own.task);
}

/* One task: convert some inner values of one expert. */
static void prompt_experts_inner(const ExpertsPrompt *p, int64_t task)
{
    ExpertTask own = find_expert_task(p, task);
    convert_prompt_vectors(&own.expert->inner, own.task);
}

/* Products of EXPERT_PANELS panels from `panel` with the vectors [from, to). */
static void multiply_expert(const PackedMatrix *m, int64_t panel, const PromptVectors *x,
                            int64_t from, int64_t to, PromptBuffers buffers)
{
    int64_t panels = min_i64(EXPERT_PANELS, (m->rows + LANES - 1) / LANES - panel);
    multiply_panels(m->panels + panel * panel_bytes(m->format, m->width), m->format,
                    (panels + 1) / 2, x, from, to, buffers);
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
    return p->expert_count * expert_row_tasks(p->moe->gate_proj->rows);
}

/* One task: some inner values of one expert. */
static void prompt_experts_gate_up(const ExpertsPrompt *p, int64_t task,
                                  PromptBuffers buffers)
{
    int64_t rows = p->moe->gate_proj->rows, row_tasks = expert_row_tasks(rows);
    const ExpertPrompt *expert = &p->experts[task / row_tasks];
    const ChosenExpert *chosen = &expert->chosen;
    const PackedMatrix *gate = &p->moe->gate_proj[chosen->expert];
    const PackedMatrix *up = &p->moe->up_proj[chosen->expert];
    int64_t panel = task % row_tasks * EXPERT_PANELS, first_row = panel * LANES;
    int64_t end_row = min_i64(first_row + EXPERT_PANELS * LANES, rows);
    PromptBuffers up_buffers = buffers;
    up_buffers.results += EXPERT_RESULTS;
    for (int64_t from = 0; from < chosen->slots; from += PASS_VECTORS) {
        int64_t to = min_i64(from + PASS_VECTORS, chosen->slots);
        multiply_expert(gate, panel, &expert->gate_x, from, to, buffers);
        multiply_expert(up, panel, &expert->up_x, from, to, up_buffers);
        for (int64_t v = from; v < to; v++) {
            float *inner = p->inner + (chosen->first_slot + v) * rows;
            for (int64_t row = first_row; row < end_row; row += LANES) {
                f32x16 values = expert_result(gate, buffers.results, first_row, row, v - from);
                f32x16 ups = expert_result(up, up_buffers.results, first_row, row, v - from);
                activate_experts(p->moe, (float *)&values, (const float *)&ups, LANES);
                memcpy(inner + row, &values, (size_t)min_i64(LANES, rows - row) * sizeof *inner);
            }
        }
    }
}

/* One task: some rows of the output, for all experts and vectors. */
static void prompt_experts_down(const ExpertsPrompt *p, int64_t task,
                               PromptBuffers buffers)
{
    int64_t rows = p->moe->down_proj->rows, panel = task * EXPERT_PANELS;
    int64_t first_row = panel * LANES, end_row = min_i64(first_row + EXPERT_PANELS * LANES, rows);
    for (int64_t v = 0; v < p->vectors; v++)
        memset(p->y + v * rows + first_row, 0, (size_t)(end_row - first_row) * sizeof *p->y);
    for (const ExpertPrompt *e = p->experts; e < p->experts + p->expert_count; e++) {
        const ChosenExpert *chosen = &e->chosen;
        const PackedMatrix *down = &p->moe->down_proj[chosen->expert];
        for (int64_t from = 0; from < chosen->slots; from += PASS_VECTORS) {
            int64_t to = min_i64(from + PASS_VECTORS, chosen->slots);
            multiply_expert(down, panel, &e->inner, from, to, buffers);
            for (int64_t v = from; v < to; v++) {
                float *out = p->y + p->tokens[chosen->first_slot + v] * rows;
                float weight = p->weights[chosen->first_slot + v], sums[LANES];
                for (int64_t row = first_row; row < end_row; row += LANES) {
                    size_t size = (size_t)min_i64(LANES, rows - row) * sizeof *sums;
                    memcpy(sums, out + row, size);
                    f32x16 sum =
                        load_f32x16(sums)
                        + weight * expert_result(down, buffers.results, first_row, row, v - from);
                    memcpy(out + row, &sum, size);
                }
            }
        }
    }
}
