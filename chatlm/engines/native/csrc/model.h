/* What the kernel computes with: a model, the tokens that are under way, and threads' own memory.
 */

#pragma once

#include "lora.h"
#include "matmul.h"
#include "packing.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { KV_CHUNK = 64 };        /* tokens of a cache that are attended to in one piece */
enum { MAX_STEP_TOKENS = 16 }; /* tokens that are decoded at once */
enum {
    LORA_TARGETS = 7
}; /* matrices of a layer that an adapter may change, in the phases' order */
enum { MAX_PHASE_TARGETS = 3 }; /* of them in one phase */

typedef struct {
    const uint8_t *panels;
    const uint16_t *scales; /* INT8 only */
    const float *bias;      /* one a row, zeros behind them up to a whole band, or NULL */
    int64_t rows;
    int64_t width; /* numbers in a row */
    int64_t format;
} PackedMatrix;

typedef struct {
    PackedMatrix qkv_proj, o_proj, gate_proj, up_proj, down_proj;
    const float *input_layernorm, *post_attention_layernorm;
    const float *q_norm, *k_norm; /* (head_size,), or NULL */
} Layer;

typedef struct {
    int64_t num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim,
        intermediate_size;
    float rms_norm_eps;
    const element_t *embed_tokens; /* (vocabulary, hidden) */
    const Layer *layers;
    const float *norm;
    PackedMatrix lm_head;
} Model;

/* Tokens that follow each other, and the cache that they are added to. */
typedef struct {
    element_t *k_cache, *v_cache;                    /* (layers, key_heads, room, row) */
    int64_t layer_stride, head_stride, token_stride; /* in numbers; a row is a multiple of LANES */
    int64_t length;                                  /* tokens that are there already */
    int64_t token_count;                             /* tokens to be added */
    const LoraPair *lora;                            /* (layers, TARGETS), or NULL */
} SequenceInput;

/* One token that is under way. */
typedef struct {
    const SequenceInput *sequence;
    int64_t position;
    const float *rope;        /* cosines, then sines, of the position's angles */
    float *partial_attention; /* what the chunks of the cache gave: (heads, chunks, row + 2) */
    int64_t kv_chunks;        /* of the sequence, not all of which need be the entry's */
} TokenState;

/* What a thread needs for itself; whatever is for one token is there for each. */
typedef struct {
    float *normed, *attention, *lora_hidden, *query, *attention_scores;
    Activations input; /* `vector`, `attended` or what all threads share */
    unsigned call;
    int64_t phase; /* `input` and `low` are prepared for it */
} ThreadScratch;

typedef struct {
    _Alignas(64) atomic_ullong ticket; /* phase, pieces and next piece of it; see `ticket_of` */
    _Alignas(64) atomic_uint finished_tasks; /* pieces of the phase */
    _Alignas(64) atomic_uint call;           /* counts the calls */
    Model model;
    int64_t hidden_stride, attention_stride, qkv_stride,
        intermediate_stride; /* floats from one token to the next */
    int64_t token_count, max_lora_rank;
    TokenState tokens[MAX_STEP_TOKENS];
    float *logits; /* (entries, vocabulary) */
    float *residual, *qkv, *gate_out, *up_out;
    float *partial_attention, *lora_hidden; /* of all entries, and of all threads */
    int64_t partial_attention_capacity, lora_hidden_capacity;
    float *arena;
    ThreadScratch *scratch;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool closing;
    int num_threads, num_workers;
    pthread_t *workers;
} Decoder;

static void rms_norm(const float *x, const float *weight, int64_t size, float epsilon, float *out)
{
    f32x16 squares = {0};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        squares += load_f32x16(x + i) * load_f32x16(x + i);
    float sum = horizontal_sum(squares);
    for (; i < size; i++)
        sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(sum / (float)size + epsilon);
    for (i = 0; i < size; i++)
        out[i] = x[i] * scale * weight[i];
}
