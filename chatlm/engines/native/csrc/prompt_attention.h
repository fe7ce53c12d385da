/* Attention of a block of a prompt, with a softmax that is updated chunk by chunk of the KV cache
   (as FlashAttention does). Lanes are queries, so that keys and values are read as they are stored.

   A query's result depends on its position alone: chunks begin at multiples of KV_CHUNK, whatever
   else is in the block, and what a query does not see adds zero. */

#pragma once

#include "attention.h"

enum { ATTENTION_ROWS = 4 * LANES }; /* queries of a task: some tokens' heads that share a KV head */

/* Rows of a tile of results, whose sums fill the registers. */
#ifdef __AVX512F__
enum { RESULT_ROWS = 4, RESULT_VECTORS = 4 };
#else
enum { RESULT_ROWS = 4, RESULT_VECTORS = 1 };
#endif

static const float HIDDEN_SCORE = -1e30f;

/* A block of tokens that a sequence has been given room for. */
struct PromptAttention {
    const AttentionStep *step;
    const SequenceInput *sequence;
    const float *queries, *keys, *values; /* (tokens, heads * head_dim), before norm and RoPE; no
                                             keys and values where they are stored already */
    float *out;                           /* as `queries` */
};

/* Floats of a thread's buffers for heads whose rows have `stride` values. */
static int64_t prompt_attention_size(int64_t stride)
{
    return stride * (2 * ATTENTION_ROWS + KV_CHUNK) + KV_CHUNK * ATTENTION_ROWS;
}

/* --- keys and values ------------------------------------------------------------------------- */

static int64_t prompt_store_tasks(const PromptAttention *p)
{
    return p->step->num_key_value_heads * ((p->sequence->token_count + KV_CHUNK - 1) / KV_CHUNK);
}

/* One task: store the keys and values of some tokens for one head. */
static void store_prompt_kv(const Decoder *d, const PromptAttention *p, int64_t task, float *row)
{
    const AttentionStep *a = p->step;
    const SequenceInput *sequence = p->sequence;
    const KVLayer *layer = &sequence->kv_layers[a->kv_layer];
    int64_t blocks = (sequence->token_count + KV_CHUNK - 1) / KV_CHUNK, head = task / blocks;
    int64_t first = task % blocks * KV_CHUNK, stride = kv_stride(a, sequence);
    int64_t row_index = head * sequence->capacity + sequence->length;
    KVRows keys = kv_rows(layer->keys, layer->key_scales, row_index, stride);
    KVRows values = kv_rows(layer->values, layer->value_scales, row_index, stride);
    for (int64_t t = first; t < min_i64(first + KV_CHUNK, sequence->token_count); t++) {
        TokenState token = {sequence, sequence->length + t, NULL};
        int64_t at = (t * a->num_key_value_heads + head) * a->head_dim;
        norm_and_apply_rope(d, a, &token, p->keys + at, a->k_norm, row);
        store_kv_row(keys, t, row, a->head_dim);
        store_kv_row(values, t, normed_value(d, a, p->values + at, row), a->head_dim);
    }
}

/* Convert a chunk's keys or values to floats; rows up to a multiple of RESULT_ROWS become zero. */
static void load_chunk(KVRows rows, int64_t tokens, float *out)
{
    int64_t stride = rows.stride, padded = round_up(tokens, RESULT_ROWS);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < stride; i += LANES) {
            f32x16 values;
            if (rows.scales)
                values = load_i8_as_f32((const int8_t *)rows.values + t * stride + i)
                         * bf16_to_float(rows.scales[(t * stride + i) / KV_GROUP]);
            else
                values = load_elements((const element_t *)rows.values + t * stride + i);
            memcpy(out + t * stride + i, &values, sizeof values);
        }
    memset(out + tokens * stride, 0, (size_t)((padded - tokens) * stride) * sizeof *out);
}

/* --- products -------------------------------------------------------------------------------- */

/* results[i] = factors * results[i] + the sum over k of left[i][k] * right[k], where lanes are those
   of `right`: of RESULT_ROWS rows, and of `vectors` vectors in each. */
typedef struct {
    const float *left;
    int64_t row_step, term_step; /* from one i to the next, and from one k to the next */
    int64_t terms;
    const float *right; /* (terms, ATTENTION_ROWS) */
    const float *factors; /* (ATTENTION_ROWS,), or NULL for zeros */
    float *results; /* (rows, ATTENTION_ROWS) */
} LaneProduct;

ALWAYS_INLINE void multiply_lanes(LaneProduct p, const int vectors)
{
    f32x16 sums[RESULT_ROWS][RESULT_VECTORS] = {0};
    for (int i = 0; p.factors && i < RESULT_ROWS; i++)
        for (int v = 0; v < vectors; v++)
            sums[i][v] = load_f32x16(p.results + i * ATTENTION_ROWS + v * LANES)
                         * load_f32x16(p.factors + v * LANES);
    for (int64_t k = 0; k < p.terms; k++, p.right += ATTENTION_ROWS, p.left += p.term_step) {
        f32x16 right[RESULT_VECTORS];
        for (int v = 0; v < vectors; v++)
            right[v] = load_f32x16(p.right + v * LANES);
        for (int i = 0; i < RESULT_ROWS; i++)
            for (int v = 0; v < vectors; v++)
                sums[i][v] += right[v] * p.left[i * p.row_step];
    }
    for (int i = 0; i < RESULT_ROWS; i++)
        for (int v = 0; v < vectors; v++)
            memcpy(p.results + i * ATTENTION_ROWS + v * LANES, &sums[i][v], sizeof sums[i][v]);
}

/* The same for any number of rows and of vectors. */
static void multiply_all_lanes(LaneProduct p, int64_t rows, int64_t vectors)
{
    for (int64_t v = 0; v < vectors; v += RESULT_VECTORS)
        for (int64_t i = 0; i < rows; i += RESULT_ROWS) {
            LaneProduct part = p;
            part.left += i * p.row_step, part.right += v * LANES;
            part.results += i * ATTENTION_ROWS + v * LANES;
            if (part.factors)
                part.factors += v * LANES;
            switch (min_i64(vectors - v, RESULT_VECTORS)) {
            case 1: multiply_lanes(part, 1); break;
#ifdef __AVX512F__
            case 2: multiply_lanes(part, 2); break;
            case 3: multiply_lanes(part, 3); break;
            case 4: multiply_lanes(part, 4); break;
#endif
            }
        }
}

/* --- softmax --------------------------------------------------------------------------------- */

/* The state of a task's queries. */
typedef struct {
    int64_t lanes; /* a multiple of LANES; those behind the last query repeat it */
    int32_t position[ATTENTION_ROWS], first_visible[ATTENTION_ROWS];
    float maximum[ATTENTION_ROWS], sum[ATTENTION_ROWS], factor[ATTENTION_ROWS];
} PromptQueries;

/* Replace the scores of keys from position `first` by their weights, and update the queries; what
   was summed before is to be multiplied by `factor`. */
ALWAYS_INLINE void update_softmax(PromptQueries *q, float *scores, int64_t first, int64_t keys,
                                  float softcap, const bool is_masked)
{
    float largest[ATTENTION_ROWS], sums[ATTENTION_ROWS] = {0};
    memcpy(largest, q->maximum, sizeof largest);
    for (int64_t t = 0; t < keys; t++) {
        float *own = scores + t * ATTENTION_ROWS;
        int32_t position = (int32_t)(first + t);
        if (softcap > 0.0f)
            for (int64_t r = 0; r < q->lanes; r++)
                own[r] = softcap * tanhf_approx(own[r] / softcap);
        for (int64_t r = 0; is_masked && r < q->lanes; r++) {
            bool is_visible = (position <= q->position[r]) & (position >= q->first_visible[r]);
            own[r] = is_visible ? own[r] : HIDDEN_SCORE;
        }
        for (int64_t r = 0; r < q->lanes; r++)
            largest[r] = own[r] > largest[r] ? own[r] : largest[r];
    }
    for (int64_t t = 0; t < keys; t++) {
        float *own = scores + t * ATTENTION_ROWS;
        int32_t position = (int32_t)(first + t);
        for (int64_t r = 0; r < q->lanes; r++) {
            bool is_visible = (position <= q->position[r]) & (position >= q->first_visible[r]);
            float weight = expf_approx(own[r] - largest[r]);
            weight = !is_masked || is_visible ? weight : 0.0f;
            own[r] = weight, sums[r] += weight;
        }
    }
    for (int64_t r = 0; r < q->lanes; r++) {
        q->factor[r] = expf_approx(q->maximum[r] - largest[r]);
        q->sum[r] = q->sum[r] * q->factor[r] + sums[r];
        q->maximum[r] = largest[r];
    }
}

/* --- the task -------------------------------------------------------------------------------- */

/* Rows of a task: fewer where there would be too few tasks to balance the load. */
static int64_t prompt_task_rows(const PromptAttention *p, int threads)
{
    int64_t rows = p->sequence->token_count * p->step->num_attention_heads, task_rows;
    for (task_rows = ATTENTION_ROWS; task_rows > LANES && rows < 4 * threads * task_rows;)
        task_rows -= LANES;
    return task_rows;
}

static int64_t prompt_query_blocks(const PromptAttention *p, int threads)
{
    int64_t per_head = p->step->num_attention_heads / p->step->num_key_value_heads;
    int64_t task_rows = prompt_task_rows(p, threads);
    return (p->sequence->token_count * per_head + task_rows - 1) / task_rows;
}

static int64_t prompt_attention_tasks(const PromptAttention *p, int threads)
{
    return p->step->num_key_value_heads * prompt_query_blocks(p, threads);
}

/* Rotate and scale the queries of rows [first, first + count) of a KV head: (head_dim, lanes). */
static void read_prompt_queries(const Decoder *d, const PromptAttention *p, int64_t head,
                                int64_t first, int64_t count, float *row, float *out,
                                PromptQueries *q)
{
    const AttentionStep *a = p->step;
    int64_t per_head = a->num_attention_heads / a->num_key_value_heads;
    q->lanes = round_up(count, LANES);
    for (int64_t r = 0; r < q->lanes; r++) {
        int64_t index = first + min_i64(r, count - 1), token = index / per_head;
        TokenState state = {p->sequence, p->sequence->length + token, NULL};
        int64_t at = token * a->num_attention_heads + head * per_head + index % per_head;
        norm_and_apply_rope(d, a, &state, p->queries + at * a->head_dim, a->q_norm, row);
        for (int64_t i = 0; i < a->head_dim; i++)
            out[i * ATTENTION_ROWS + r] = row[i] * a->scale;
        q->position[r] = (int32_t)state.position;
        q->first_visible[r] = (int32_t)first_visible(a, state.position);
        q->maximum[r] = HIDDEN_SCORE, q->sum[r] = 0.0f;
    }
}

/* Divide by the sums of weights, a sink's among them, and store the rows of a KV head. */
static void store_prompt_rows(const PromptAttention *p, int64_t head, int64_t first, int64_t count,
                              const PromptQueries *q, const float *results)
{
    const AttentionStep *a = p->step;
    int64_t per_head = a->num_attention_heads / a->num_key_value_heads;
    for (int64_t r = 0; r < count; r++) {
        int64_t token = (first + r) / per_head, query = head * per_head + (first + r) % per_head;
        float *out = p->out + (token * a->num_attention_heads + query) * a->head_dim;
        float factor = 1.0f, sum = q->sum[r];
        if (a->sinks) {
            float maximum = a->sinks[query] > q->maximum[r] ? a->sinks[query] : q->maximum[r];
            factor = expf_approx(q->maximum[r] - maximum);
            sum = sum * factor + expf_approx(a->sinks[query] - maximum);
        }
        for (int64_t i = 0; i < a->head_dim; i++)
            out[i] = results[i * ATTENTION_ROWS + r] * factor / sum;
    }
}

/* One task: some queries of one KV head attend to what they see. */
static void attend_prompt_rows(const Decoder *d, const PromptAttention *p, int64_t task, float *row,
                               float *buffer)
{
    const AttentionStep *a = p->step;
    const SequenceInput *sequence = p->sequence;
    const KVLayer *layer = &sequence->kv_layers[a->kv_layer];
    int64_t per_head = a->num_attention_heads / a->num_key_value_heads;
    int64_t blocks = prompt_query_blocks(p, d->num_threads), head = task / blocks;
    int64_t task_rows = prompt_task_rows(p, d->num_threads), first_row = task % blocks * task_rows;
    int64_t count = min_i64(task_rows, sequence->token_count * per_head - first_row);
    int64_t stride = kv_stride(a, sequence);
    float *queries = buffer, *results = queries + stride * ATTENTION_ROWS;
    float *scores = results + stride * ATTENTION_ROWS, *rows = scores + KV_CHUNK * ATTENTION_ROWS;
    PromptQueries q;
    read_prompt_queries(d, p, head, first_row, count, row, queries, &q);
    int64_t vectors = q.lanes / LANES, oldest = q.position[0], newest = q.position[count - 1];
    memset(results, 0, (size_t)(stride * ATTENTION_ROWS) * sizeof *results);
    for (int64_t first = q.first_visible[0] / KV_CHUNK * KV_CHUNK; first <= newest;
         first += KV_CHUNK) {
        int64_t keys = min_i64(KV_CHUNK, newest + 1 - first);
        int64_t row_index = head * sequence->capacity + first;
        bool is_masked = first + keys - 1 > oldest || first < q.first_visible[count - 1];
        load_chunk(kv_rows(layer->keys, layer->key_scales, row_index, stride), keys, rows);
        multiply_all_lanes((LaneProduct){rows, stride, 1, a->head_dim, queries, NULL, scores},
                           keys, vectors);
        if (is_masked)
            update_softmax(&q, scores, first, keys, a->softcap, true);
        else
            update_softmax(&q, scores, first, keys, a->softcap, false);
        load_chunk(kv_rows(layer->values, layer->value_scales, row_index, stride), keys, rows);
        multiply_all_lanes((LaneProduct){rows, 1, stride, keys, scores, q.factor, results},
                           stride, vectors);
    }
    store_prompt_rows(p, head, first_row, count, &q, results);
}
