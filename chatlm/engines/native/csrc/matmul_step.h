/* The step that multiplies matrices: tasks of some rows each, its input and what follows it. */

#pragma once

#include "attention.h"
#include "routing.h"

enum { TASK_BYTES = 32 * 1024, TASKS_PER_THREAD = 8 };

/* --- matrix products ----------------------------------------------------------------------- */

/* Rows per task: few enough to balance the load, and whole cache lines of results. */
static int64_t rows_per_task(const Decoder *d, const PackedMatrix *m)
{
    int64_t rows = LANES * TASK_BYTES / panel_bytes(m->format, m->width);
    return round_up(max_i64(max_i64(rows, m->rows / (d->num_threads * TASKS_PER_THREAD)), 1),
                    LANES);
}

static int64_t matrix_tasks(const Decoder *d, const PackedMatrix *m)
{
    return (m->rows + rows_per_task(d, m) - 1) / rows_per_task(d, m);
}

/* One output vector per token, `stride` floats apart. */
typedef struct {
    float *data;
    int64_t stride;
} OutputVectors;

/* y = matrix x + bias, or y += multiplier * (matrix x + bias), for the panels of rows [from, to) and
   `count` tokens. */
ALWAYS_INLINE void matmul_rows(const PackedMatrix *m, int64_t from, int64_t to, Activations x,
                               OutputVectors y, bool accumulate, float multiplier, const int count)
{
    for (int64_t r = from; r < to; r += LANES) {
        f32x16 products[MAX_VECTORS] = {0};
        dot_panel(m->format, m->panels + r / LANES * panel_bytes(m->format, m->width), x, count,
                  products);
        for (int i = 0; i < count; i++) {
            float *out = y.data + i * y.stride + r;
            f32x16 product = m->bias ? products[i] + load_f32x16(m->bias + r) : products[i];
            if (accumulate)
                product = load_f32x16(out) + multiplier * product;
            if (r + LANES <= m->rows)
                memcpy(out, &product, sizeof product);
            else
                memcpy(out, &product, (size_t)(m->rows - r) * sizeof *out);
        }
    }
}

/* How many of the vectors that are left are multiplied at once: 4, 2 or 1. */
static int64_t vectors_at_once(int64_t left) { return left >= 4 ? 4 : left >= 2 ? 2 : 1; }

/* The same for a number of tokens that `vectors_at_once` gave. */
static void multiply_rows(const PackedMatrix *m, int64_t from, int64_t to, Activations x,
                          OutputVectors y, bool accumulate, float multiplier, int64_t count)
{
    if (count == 4)
        matmul_rows(m, from, to, x, y, accumulate, multiplier, 4);
    else if (count == 2)
        matmul_rows(m, from, to, x, y, accumulate, multiplier, 2);
    else
        matmul_rows(m, from, to, x, y, accumulate, multiplier, 1);
}

/* The same for the rows of one task and all tokens. */
static void matmul(const Decoder *d, const PackedMatrix *m, int64_t task, Activations x,
                   OutputVectors y, bool accumulate, float multiplier)
{
    int64_t from = task * rows_per_task(d, m), to = min_i64(from + rows_per_task(d, m), m->rows);
    for (int64_t left = d->token_count, vectors; left; left -= vectors) {
        vectors = vectors_at_once(left);
        multiply_rows(m, from, to, x, y, accumulate, multiplier, vectors);
        x = activations_from(x, vectors), y.data += vectors * y.stride;
    }
}

/* Add each sequence's LoRA, `multiplier` times, to the same rows; `index` is the matrix in its
   step. */
static void add_lora(const Decoder *d, const MatmulStep *step, int64_t index, int64_t task,
                     const float *hidden, OutputVectors y, float multiplier)
{
    const StepMatrix *m = &step->matrices[index];
    int64_t rows = rows_per_task(d, &m->matrix), from = task * rows;
    int64_t to = min_i64(from + rows, m->matrix.rows);
    for (int64_t t = 0; t < d->token_count; t++, y.data += y.stride) {
        const LoraPair *pairs = d->tokens[t].sequence->lora;
        if (pairs)
            lora_up(&pairs[m->lora], hidden + (t * MAX_STEP_MATRICES + index) * d->max_lora_rank,
                    from, to, multiplier, y.data);
    }
}

/* Whether the step's last task is followed by LoRA; such as lm_head and routers have none. */
static bool has_lora(const Decoder *d, const MatmulStep *step)
{
    return d->max_lora_rank && step->matrices[0].lora >= 0;
}

static int64_t matmul_step_tasks(const Decoder *d, const MatmulStep *step)
{
    int64_t tasks = 0, count = step->gate == NO_GATE ? step->matrix_count : 1;
    for (int64_t i = 0; i < count; i++)
        tasks += matrix_tasks(d, &step->matrices[i].matrix);
    return tasks;
}

/* hidden = scale * A x of each sequence's LoRA pairs in the step. */
static void lora_down_step(const Decoder *d, const MatmulStep *step, Activations input,
                           float *hidden)
{
    for (int64_t t = 0; t < d->token_count; t++) {
        const LoraPair *pairs = d->tokens[t].sequence->lora;
        for (int64_t i = 0; pairs && i < step->matrix_count; i++)
            lora_down(&pairs[step->matrices[i].lora], input.values + t * input.stride,
                      hidden + (t * MAX_STEP_MATRICES + i) * d->max_lora_rank);
    }
}

/* Whether a thread has computed the input of this phase; if not, it must do so now. */
static bool is_prepared(const Decoder *d, int64_t phase, ThreadScratch *s)
{
    unsigned call = atomic_load(&d->call);
    bool is_done = s->call == call && s->phase == phase;
    s->call = call, s->phase = phase;
    return is_done;
}

/* A token's residual, normalized unless `norm` is NULL. */
static void read_residual(const Decoder *d, int64_t token, const float *norm, float *out)
{
    const Model *m = &d->model;
    const float *residual = d->buffers[RESIDUAL] + token * d->strides[RESIDUAL];
    if (norm && !d->is_normalized)
        rms_norm(residual, norm, m->hidden_size, m->rms_norm_eps, out);
    else
        memcpy(out, residual, (size_t)m->hidden_size * sizeof *out);
}

/* Compute one token's vector of a step's input. */
static void prepare_token(const Decoder *d, const MatmulStep *step, int64_t token, Activations x,
                          float *values)
{
    bool is_buffer = step->input == INPUT_BUFFER, any_quantized = false;
    values += token * x.stride;
    for (int64_t i = 0; i < step->matrix_count; i++)
        any_quantized |= is_quantized(step->matrices[i].matrix.format);
    if (step->input == INPUT_ATTENTION)
        merge_chunks(d, step->attention, token, values);
    else if (!is_buffer)
        read_residual(d, token, step->norm, values);
    for (int64_t i = step->input_size; !is_buffer && i < x.stride; i++)
        values[i] = 0.0f;
    if (any_quantized)
        quantize_activations(activations_from(x, token));
}

enum { MIN_SHARED_TOKENS = 4 };

/* Compute the input of a step. Each thread does so before its first task; of many tokens, the threads
   divide the work, which costs more for few. */
static void prepare_matmul(const Decoder *d, int64_t phase, const MatmulStep *step,
                           ThreadScratch *s)
{
    if (is_prepared(d, phase, s))
        return;
    bool is_shared = d->num_threads > 1 && d->token_count >= MIN_SHARED_TOKENS;
    const ThreadScratch *owner = is_shared ? &d->scratch[0] : s;
    InputProgress *progress = d->input_progress;
    float *values = step->input == INPUT_BUFFER ? d->buffers[step->input_buffer] : owner->prepared;
    Activations x = owner->input;
    x.values = values, x.stride = step->matrices[0].matrix.width;
    if (is_shared) {
        for (int64_t t; t = atomic_fetch_add(&progress->next, 1), t < d->token_count;) {
            prepare_token(d, step, t, x, values);
            atomic_fetch_add(&progress->ready, 1);
        }
        for (int spins = 0; atomic_load(&progress->ready) < d->token_count;)
            spin_wait(&spins);
    } else {
        for (int64_t t = 0; t < d->token_count; t++)
            prepare_token(d, step, t, x, values);
    }
    s->step_input = x;
    if (has_lora(d, step))
        lora_down_step(d, step, x, s->lora_hidden);
}

/* The rows of one task of gate_proj and the same of up_proj, if there is one. */
static void run_gated(const Decoder *d, const MatmulStep *step, int64_t task,
                      const ThreadScratch *s)
{
    const PackedMatrix *matrix = &step->matrices[0].matrix;
    int64_t rows = rows_per_task(d, matrix), from = task * rows;
    int64_t to = min_i64(from + rows, matrix->rows);
    OutputVectors gate = {d->buffers[step->output_buffer], d->strides[step->output_buffer]};
    OutputVectors up = {d->buffers[step->up_buffer], d->strides[step->up_buffer]};
    up.data += step->up_offset;
    matmul(d, matrix, task, s->step_input, gate, false, 1.0f);
    if (has_lora(d, step))
        add_lora(d, step, 0, task, s->lora_hidden, gate, 1.0f);
    if (step->matrix_count > 1) {
        matmul(d, &step->matrices[1].matrix, task, s->step_input, up, false, 1.0f);
        if (has_lora(d, step))
            add_lora(d, step, 1, task, s->lora_hidden, up, 1.0f);
    }
    for (int64_t t = 0; t < d->token_count; t++, gate.data += gate.stride, up.data += up.stride) {
        apply_activation(step->gate, gate.data + from, up.data + from, to - from);
        if (step->share_buffer < 0)
            continue;
        int64_t at = t * d->strides[step->share_buffer] + step->share_offset;
        float share = 1.0f / (1.0f + expf_approx(-d->buffers[step->share_buffer][at]));
        for (int64_t i = from; i < to; i++)
            gate.data[i] *= share;
    }
}

static void run_matmul(const Decoder *d, int64_t phase, const MatmulStep *step, int64_t task,
                       ThreadScratch *s)
{
    prepare_matmul(d, phase, step, s);
    if (step->gate != NO_GATE) {
        run_gated(d, step, task, s);
        return;
    }
    bool adds = step->output == OUTPUT_RESIDUAL;
    float multiplier = adds ? step->multiplier : 1.0f;
    int64_t index = 0, buffer = adds ? RESIDUAL : step->output_buffer;
    OutputVectors y = {d->logits, step->matrices[0].matrix.rows};
    if (step->output != OUTPUT_LOGITS)
        y = (OutputVectors){d->buffers[buffer], d->strides[buffer]};
    for (const PackedMatrix *m; m = &step->matrices[index].matrix, task >= matrix_tasks(d, m);
         index++)
        task -= matrix_tasks(d, m), y.data += m->rows;
    matmul(d, &step->matrices[index].matrix, task, s->step_input, y, adds, multiplier);
    if (has_lora(d, step))
        add_lora(d, step, index, task, s->lora_hidden, y, multiplier);
}

/* What follows the last task, in the thread that ran it: norms of the output as a whole, or the
   choice of experts. */
static void finish_matmul(const Decoder *d, const MatmulStep *step)
{
    if (step->routes)
        route_tokens(step->routes, d->buffers[step->output_buffer],
                     d->strides[step->output_buffer], d->token_count, d->routing);
    for (int64_t t = 0; t < d->token_count && step->norm_count; t++) {
        float *output = d->buffers[step->output_buffer] + t * d->strides[step->output_buffer];
        for (const NormSpan *n = step->norms; n < step->norms + step->norm_count; n++)
            for (int64_t i = 0; i < n->count; i++) {
                float *values = output + n->offset + i * n->size;
                rms_norm(values, n->weight, n->size, n->epsilon, values);
            }
        if (step->sum_buffer < 0)
            continue;
        float *sum = d->buffers[step->sum_buffer] + t * d->strides[step->sum_buffer];
        for (int64_t i = 0; i < step->sum_size; i++)
            sum[i] += step->multiplier * output[i];
        for (int64_t i = 0; step->sum_scale != 1.0f && i < step->sum_size; i++)
            sum[i] *= step->sum_scale;
    }
}
