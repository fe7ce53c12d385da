/* Grouped-query attention over KV caches that are read in chunks, with a softmax merged across
   chunks (as flash-decoding does). A sequence may add several tokens at once. */

#pragma once

#include "model.h"

enum { CACHE_LINE = 64 }; /* bytes */

/* One head's query or key: normalized where the model has QK norm, then rotated. */
static void norm_and_apply_rope(const Decoder *d, const AttentionStep *a, const TokenState *token,
                                const float *x, const float *norm_weight, float *out)
{
    if (norm_weight)
        rms_norm(x, norm_weight, a->head_dim, d->model.rms_norm_eps, out);
    else
        memcpy(out, x, (size_t)a->head_dim * sizeof *out);
    if (a->rope < 0)
        return;
    int64_t half = a->rotary_dim / 2;
    const float *cosine = token->sequence->ropes[a->rope] + token->position * a->rotary_dim;
    const float *sine = cosine + half;
    if (a->interleaved)
        for (int64_t i = 0; i < half; i++) {
            float first = out[2 * i], second = out[2 * i + 1];
            out[2 * i] = first * cosine[i] - second * sine[i];
            out[2 * i + 1] = second * cosine[i] + first * sine[i];
        }
    else
        for (int64_t i = 0; i < half; i++) {
            float first = out[i], second = out[i + half];
            out[i] = first * cosine[i] - second * sine[i];
            out[i + half] = second * cosine[i] + first * sine[i];
        }
}

/* --- the KV cache ---------------------------------------------------------------------------- */

/* Values of a token's row, with padding. */
static int64_t kv_stride(const AttentionStep *a, const SequenceInput *sequence)
{
    bool is_int8 = sequence->kv_layers[a->kv_layer].key_scales;
    return round_up(a->head_dim, is_int8 ? KV_GROUP : LANES);
}

/* The first token that one at a position attends to. */
static int64_t first_visible(const AttentionStep *a, int64_t position)
{
    return a->window ? max_i64(position + 1 - a->window, 0) : 0;
}

/* Chunks of a sequence's cache that its new tokens attend to. */
typedef struct {
    int64_t first, count;
} ChunkRange;

static ChunkRange chunk_range(const AttentionStep *a, const SequenceInput *s)
{
    int64_t first = first_visible(a, s->length) / KV_CHUNK;
    return (ChunkRange){first, (s->length + s->token_count - 1) / KV_CHUNK + 1 - first};
}

/* One KV head's keys or values of consecutive tokens, `stride` values each. */
typedef struct {
    void *values;     /* `element_t`, or int8_t codes */
    uint16_t *scales; /* of the codes, one per KV_GROUP; NULL for elements */
    int64_t stride;
} KVRows;

static KVRows kv_rows(void *cache, uint16_t *scales, int64_t first, int64_t stride)
{
    if (!scales)
        return (KVRows){(element_t *)cache + first * stride, NULL, stride};
    scales += first * (stride / KV_GROUP);
    return (KVRows){(int8_t *)cache + first * stride, scales, stride};
}

/* Quantize one group; an infinity or NaN makes all its values NaN. */
static void quantize_kv_group(const float *x, int64_t count, int8_t *codes, uint16_t *scale)
{
    int32_t largest_bits = 0;
    for (int64_t i = 0; i < count; i++) { /* the bits of a positive float have its order */
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    float largest, step;
    memcpy(&largest, &largest_bits, sizeof largest);
    *scale = float_to_bf16(largest / 127.0f);
    step = bf16_to_float(*scale);
    bool finite = step > 0.0f && largest_bits < 0x7f800000;
    for (int64_t i = 0; i < count; i++) {
        float code = finite ? rintf(x[i] / step) : 0.0f;
        codes[i] = (int8_t)(code < -127.0f ? -127.0f : code > 127.0f ? 127.0f : code);
    }
}

/* Write one token's row, `size` values. */
static void store_kv_row(KVRows rows, int64_t token, const float *x, int64_t size)
{
    if (!rows.scales) {
        element_t *row = (element_t *)rows.values + token * rows.stride;
        for (int64_t i = 0; i < size; i++)
            row[i] = float_to_element(x[i]);
        return;
    }
    int8_t *codes = (int8_t *)rows.values + token * rows.stride;
    uint16_t *scales = rows.scales + token * (rows.stride / KV_GROUP);
    for (int64_t i = 0; i < size; i += KV_GROUP)
        quantize_kv_group(x + i, min_i64(KV_GROUP, size - i), codes + i, scales + i / KV_GROUP);
}

/* One head's value, normalized into `out` where the model does so. */
static const float *normed_value(const Decoder *d, const AttentionStep *a, const float *x,
                                 float *out)
{
    if (!a->v_norm)
        return x;
    rms_norm(x, a->v_norm, a->head_dim, d->model.rms_norm_eps, out);
    return out;
}

/* Write the token's key and value of one KV head into row `row` of a chunk. */
static void store_kv(const Decoder *d, const AttentionStep *a, int64_t index, int64_t head,
                     float *key, KVRows keys, KVRows values, int64_t row)
{
    const float *qkv = d->buffers[a->qkv_buffer] + index * d->strides[a->qkv_buffer];
    qkv += head * a->head_dim;
    norm_and_apply_rope(d, a, &d->tokens[index], qkv + a->keys, a->k_norm, key);
    store_kv_row(keys, row, key, a->head_dim);
    store_kv_row(values, row, normed_value(d, a, qkv + a->values, key), a->head_dim);
}

/* The token's queries that share one KV head, scaled and padded with zeros to a row. */
static void scaled_queries(const Decoder *d, const AttentionStep *a, int64_t index, int64_t head,
                           float *out)
{
    const TokenState *token = &d->tokens[index];
    int64_t size = a->head_dim, stride = kv_stride(a, token->sequence);
    int64_t queries_per_kv_head = a->num_attention_heads / a->num_key_value_heads;
    const float *query = d->buffers[a->qkv_buffer] + index * d->strides[a->qkv_buffer];
    query += head * queries_per_kv_head * size;
    for (int64_t q = 0; q < queries_per_kv_head; q++, query += size, out += stride) {
        norm_and_apply_rope(d, a, token, query, a->q_norm, out);
        for (int64_t i = 0; i < stride; i++)
            out[i] = i < size ? out[i] * a->scale : 0.0f;
    }
}

/* --- scores and values ----------------------------------------------------------------------- */

/* The part of one KV head's chunk that a token attends to. */
typedef struct {
    const void *keys, *values; /* (tokens, stride): see KVRows */
    const float *key_scales, *value_scales;
    int64_t tokens, stride;
    float softcap; /* of the scores, or 0 */
} KVChunk;

/* 16 values of a token's row from column `i`. */
ALWAYS_INLINE f32x16 load_kv(const void *rows, const float *scales, int64_t stride, int64_t token,
                             int64_t i, const bool is_int8)
{
    if (!is_int8)
        return load_elements((const element_t *)rows + token * stride + i);
    return load_i8_as_f32((const int8_t *)rows + token * stride + i)
           * scales[(token * stride + i) / KV_GROUP];
}

/* Dot products of `count` queries with each key; prefetches the values and the next chunk. */
ALWAYS_INLINE void query_key_scores(KVChunk chunk, const float *queries, float *scores,
                                    const int count, const bool is_int8)
{
    int64_t stride = chunk.stride, row_bytes = stride * (is_int8 ? 1 : (int)sizeof(element_t));
    const char *key = chunk.keys, *value = chunk.values;
    for (int64_t t = 0; t < chunk.tokens; t++, key += row_bytes, value += row_bytes) {
        f32x16 sums[MAX_VECTORS] = {0};
        for (int64_t i = 0; i < row_bytes; i += CACHE_LINE) {
            __builtin_prefetch(value + i);
            __builtin_prefetch(key + KV_CHUNK * row_bytes + i);
        }
        for (int64_t i = 0; i < stride; i += LANES) {
            f32x16 k = load_kv(chunk.keys, chunk.key_scales, stride, t, i, is_int8);
            for (int q = 0; q < count; q++)
                sums[q] += k * load_f32x16(queries + q * stride + i);
        }
        for (int q = 0; q < count; q++)
            scores[q * KV_CHUNK + t] = horizontal_sum(sums[q]);
    }
}

/* Replace KV_CHUNK scores by exp(score - max_score), those after the first `tokens` by 0. Also
   gives the maximum and the sum of the weights. */
static void softmax_chunk(float *scores, int64_t tokens, float *max_score, float *weight_sum)
{
    f32x16 sums = {0};
    float maximums[LANES];
    for (int64_t t = tokens; t < KV_CHUNK; t++)
        scores[t] = scores[0];
    memcpy(maximums, scores, sizeof maximums);
    for (int64_t t = LANES; t < KV_CHUNK; t += LANES)
        for (int i = 0; i < LANES; i++)
            maximums[i] = scores[t + i] > maximums[i] ? scores[t + i] : maximums[i];
    for (int i = 1; i < LANES; i++)
        maximums[0] = maximums[i] > maximums[0] ? maximums[i] : maximums[0];
    float maximum = maximums[0];
    for (int64_t t = 0; t < KV_CHUNK; t++)
        scores[t] = expf_approx(scores[t] - maximum);
    for (int64_t t = tokens; t < KV_CHUNK; t++)
        scores[t] = 0.0f;
    for (int64_t t = 0; t < KV_CHUNK; t += LANES)
        sums += load_f32x16(scores + t);
    *max_score = maximum, *weight_sum = horizontal_sum(sums);
}

/* The weighted sum of the values for each of `count` queries, `output_stride` floats apart. */
ALWAYS_INLINE void weighted_values(KVChunk chunk, const float *weights, float *out,
                                   int64_t output_stride, const int count, const bool is_int8)
{
    int64_t tokens = chunk.tokens, stride = chunk.stride;
    for (int64_t i = 0; i < stride; i += LANES) {
        f32x16 sums[MAX_VECTORS][2] = {0};
        for (int64_t t = 0; t + 1 < tokens; t += 2) {
            f32x16 even = load_kv(chunk.values, chunk.value_scales, stride, t, i, is_int8);
            f32x16 odd = load_kv(chunk.values, chunk.value_scales, stride, t + 1, i, is_int8);
            for (int q = 0; q < count; q++) {
                sums[q][0] += even * weights[q * KV_CHUNK + t];
                sums[q][1] += odd * weights[q * KV_CHUNK + t + 1];
            }
        }
        if (tokens % 2) {
            f32x16 last = load_kv(chunk.values, chunk.value_scales, stride, tokens - 1, i, is_int8);
            for (int q = 0; q < count; q++)
                sums[q][0] += last * weights[q * KV_CHUNK + tokens - 1];
        }
        for (int q = 0; q < count; q++) {
            f32x16 sum = sums[q][0] + sums[q][1];
            memcpy(out + q * output_stride + i, &sum, sizeof sum);
        }
    }
}

ALWAYS_INLINE void attend_chunk(KVChunk chunk, const float *queries, float *scores, float *out,
                                int64_t output_stride, const int count, const bool is_int8)
{
    query_key_scores(chunk, queries, scores, count, is_int8);
    if (chunk.softcap > 0.0f)
        for (int q = 0; q < count; q++)
            for (int64_t t = 0; t < chunk.tokens; t++)
                scores[q * KV_CHUNK + t] =
                    chunk.softcap * tanhf_approx(scores[q * KV_CHUNK + t] / chunk.softcap);
    for (int q = 0; q < count; q++, scores += KV_CHUNK) {
        float *statistics = out + q * output_stride + chunk.stride;
        softmax_chunk(scores, chunk.tokens, statistics, statistics + 1);
    }
    weighted_values(chunk, scores - count * KV_CHUNK, out, output_stride, count, is_int8);
}

/* The same for all queries of a KV head. */
ALWAYS_INLINE void attend_queries(KVChunk chunk, const float *queries, int64_t count,
                                  float *scores, float *out, int64_t output_stride,
                                  const bool is_int8)
{
    for (; count > 0; count -= MAX_VECTORS, queries += MAX_VECTORS * chunk.stride,
                      out += MAX_VECTORS * output_stride)
        if (count == 1)
            attend_chunk(chunk, queries, scores, out, output_stride, 1, is_int8);
        else if (count == 2)
            attend_chunk(chunk, queries, scores, out, output_stride, 2, is_int8);
        else if (count == 3)
            attend_chunk(chunk, queries, scores, out, output_stride, 3, is_int8);
        else
            attend_chunk(chunk, queries, scores, out, output_stride, MAX_VECTORS, is_int8);
}

/* --- the step -------------------------------------------------------------------------------- */

static int64_t attention_tasks(const Decoder *d, const AttentionStep *a)
{
    int64_t tasks = 0;
    for (int64_t t = 0; t < d->token_count; t += d->tokens[t].sequence->token_count)
        tasks += a->num_key_value_heads * chunk_range(a, d->tokens[t].sequence).count;
    return tasks;
}

/* Floats of a token's partial results. */
static int64_t partial_attention_size(const AttentionStep *a, const SequenceInput *sequence)
{
    return a->num_attention_heads * chunk_range(a, sequence).count
           * (kv_stride(a, sequence) + 2);
}

/* The part of a chunk, from its token `first` on, that a token attends to. */
static KVChunk visible_part(const AttentionStep *a, KVRows keys, KVRows values, int64_t first,
                            const float *key_scales, const float *value_scales, int64_t position)
{
    int64_t from = max_i64(first_visible(a, position) - first, 0);
    int64_t to = min_i64(position + 1 - first, KV_CHUNK), row = keys.stride;
    int64_t bytes = from * row * (keys.scales ? 1 : (int64_t)sizeof(element_t));
    int64_t groups = from * (row / KV_GROUP);
    return (KVChunk){(char *)keys.values + bytes, (char *)values.values + bytes,
                     key_scales + groups,         value_scales + groups,
                     to - from,                   row,
                     a->softcap};
}

/* One task: the queries of one KV head attend to one chunk of a sequence's cache. Writes for each
   query of each token the weighted sum of the values, the maximum score and the sum of the weights.
   First stores the keys and values of new tokens that belong to the chunk. */
static void gqa_attention(const Decoder *d, const AttentionStep *a, int64_t task,
                          const ThreadScratch *s)
{
    const TokenState *token = d->tokens;
    ChunkRange chunks = chunk_range(a, token->sequence);
    while (task >= a->num_key_value_heads * chunks.count) {
        task -= a->num_key_value_heads * chunks.count, token += token->sequence->token_count;
        chunks = chunk_range(a, token->sequence);
    }
    const SequenceInput *sequence = token->sequence;
    const KVLayer *layer = &sequence->kv_layers[a->kv_layer];
    int64_t head = task / chunks.count, chunk_index = task % chunks.count;
    int64_t first = (chunks.first + chunk_index) * KV_CHUNK, stride = kv_stride(a, sequence);
    int64_t queries_per_kv_head = a->num_attention_heads / a->num_key_value_heads;
    int64_t row_index = head * sequence->capacity + first;
    KVRows keys = kv_rows(layer->keys, layer->key_scales, row_index, stride);
    KVRows values = kv_rows(layer->values, layer->value_scales, row_index, stride);
    const TokenState *end = token + sequence->token_count;
    for (const TokenState *added = token; a->keys >= 0 && added < end; added++) {
        int64_t row = added->position - first;
        if (0 <= row && row < KV_CHUNK)
            store_kv(d, a, added - d->tokens, head, s->query, keys, values, row);
    }
    int64_t stored = min_i64(end[-1].position + 1 - first, KV_CHUNK);
    int64_t scale_count = stored * (stride / KV_GROUP);
    for (int64_t i = 0; keys.scales && i < scale_count; i++) {
        s->kv_scales[i] = bf16_to_float(keys.scales[i]);
        s->kv_scales[scale_count + i] = bf16_to_float(values.scales[i]);
    }
    for (; token < end; token++) {
        int64_t output_stride = chunks.count * (stride + 2);
        float *out = token->partial_attention
                     + head * queries_per_kv_head * output_stride + chunk_index * (stride + 2);
        KVChunk chunk = visible_part(a, keys, values, first, s->kv_scales,
                                     s->kv_scales + scale_count, token->position);
        if (chunk.tokens <= 0)
            continue;
        scaled_queries(d, a, token - d->tokens, head, s->query);
        if (keys.scales)
            attend_queries(chunk, s->query, queries_per_kv_head, s->attention_scores, out,
                           output_stride, true);
        else
            attend_queries(chunk, s->query, queries_per_kv_head, s->attention_scores, out,
                           output_stride, false);
    }
}

/* Combine the chunks' partial results into the input of o_proj. */
static void merge_chunks(const Decoder *d, const AttentionStep *a, int64_t index, float *out)
{
    const TokenState *token = &d->tokens[index];
    const float *gate = d->buffers[a->qkv_buffer] + index * d->strides[a->qkv_buffer] + a->gate;
    int64_t stride = kv_stride(a, token->sequence), partial_size = stride + 2;
    ChunkRange range = chunk_range(a, token->sequence);
    int64_t first = first_visible(a, token->position) / KV_CHUNK - range.first;
    int64_t chunks = token->position / KV_CHUNK + 1 - range.first - first;
    for (int64_t h = 0; h < a->num_attention_heads; h++, out += a->head_dim) {
        const float *partials =
            token->partial_attention + (h * range.count + first) * partial_size;
        float max_score = partials[stride], weight_sum = 0.0f;
        for (int64_t c = 1; c < chunks; c++)
            max_score = partials[c * partial_size + stride] > max_score
                            ? partials[c * partial_size + stride]
                            : max_score;
        if (a->sinks) {
            max_score = a->sinks[h] > max_score ? a->sinks[h] : max_score;
            weight_sum = expf_approx(a->sinks[h] - max_score);
        }
        memset(out, 0, (size_t)a->head_dim * sizeof *out);
        for (int64_t c = 0; c < chunks; c++, partials += partial_size) {
            float weight = expf_approx(partials[stride] - max_score);
            weight_sum += weight * partials[stride + 1];
            for (int64_t i = 0; i < a->head_dim; i++)
                out[i] += weight * partials[i];
        }
        for (int64_t i = 0; i < a->head_dim; i++)
            out[i] /= weight_sum;
        for (int64_t i = 0; a->gate >= 0 && i < a->head_dim; i++)
            out[i] /= 1.0f + expf_approx(-gate[h * a->head_dim + i]);
    }
}
