/* Data structures of the decoder: model, sequences, tokens and buffers; and RMSNorm. */

#pragma once

#include "lora.h"
#include "packing.h"
#include "prompt_matmul.h"

#include <pthread.h>
#include <stdatomic.h>

enum { KV_CHUNK = 64 };        /* tokens of the KV cache that one attention task reads */
enum { KV_GROUP = 32 };        /* values of a quantized KV cache that share a scale */
enum { MAX_STEP_TOKENS = 16 }; /* tokens per call */
enum {
    LORA_TARGETS = 7
}; /* matrices of a layer that LoRA may change, in the order of the phases */
enum { MAX_PHASE_MATRICES = 3 }; /* of these, in one phase */

typedef struct {
    const uint8_t *panels;
    const float *bias; /* (rows,) padded with zeros to whole panels, or NULL */
    int64_t rows;
    int64_t width; /* padded columns */
    int64_t format;
} PackedMatrix;

typedef struct {
    PackedMatrix q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj;
    const float *input_layernorm, *post_attention_layernorm;
    const float *q_norm, *k_norm; /* (head_dim,), or NULL */
} Layer;

typedef struct {
    int64_t num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim,
        intermediate_size;
    float rms_norm_eps;
    StoredMatrix embed_tokens; /* (vocab_size, hidden_size), as it is in the file */
    const Layer *layers;
    const float *norm;
    PackedMatrix lm_head;
} Model;

/* Consecutive tokens of one sequence, and its KV cache. */
typedef struct {
    void *k_cache, *v_cache; /* (layers, KV heads, capacity, padded head_dim): `element_t` */
    /* (layers, KV heads, capacity, groups), bfloat16: the caches then hold int8_t codes that these
       multiply; NULL otherwise */
    uint16_t *k_scales, *v_scales;
    int64_t layer_stride, head_stride,
        token_stride; /* in elements; a token's row is padded to LANES, or to whole groups */
    int64_t length;       /* tokens in the cache */
    int64_t token_count;  /* tokens to add */
    const LoraPair *lora; /* (layers, LORA_TARGETS), or NULL */
} SequenceInput;

/* One token of the current call. */
typedef struct {
    const SequenceInput *sequence;
    int64_t position;
    const float *rope;        /* cosines, then sines, of its position */
    float *partial_attention; /* per KV chunk: (heads, kv_chunks, padded head_dim + 2) */
    int64_t kv_chunks;        /* of the sequence; an earlier token sees fewer */
} TokenState;

/* One thread's buffers, each with one row per token where it is per token. */
typedef struct {
    float *normed, *attention, *lora_hidden, *query, *attention_scores;
    float *kv_scales; /* of a chunk's keys, then of its values */
    Activations input; /* of `normed`, `attention` or the shared `gate_out` */
    buffer_t *prompt_buffer;
    float *prompt_results;
    unsigned call;
    int64_t phase; /* for which `input` and `lora_hidden` are prepared */
} ThreadScratch;

typedef struct {
    _Alignas(64) atomic_ullong ticket; /* phase, its tasks and the next one; see make_ticket */
    _Alignas(64) atomic_uint finished_tasks; /* of the current phase */
    _Alignas(64) atomic_uint call;           /* counts the calls */
    Model model;
    /* floats from one token to the next */
    int64_t hidden_stride, attention_stride, qkv_stride, intermediate_stride;
    int64_t token_count, max_lora_rank;
    TokenState tokens[MAX_STEP_TOKENS];
    float *logits; /* (tokens, vocab_size) */
    const PackedMatrix *prompt_matrix; /* of a call that multiplies a prompt */
    PromptBlock prompt;
    element_t *prompt_x; /* the padded vectors */
    int64_t prompt_x_capacity;
    bool use_amx;
    float *residual, *qkv, *gate_out, *up_out;
    float *partial_attention, *lora_hidden; /* of all tokens; of all threads */
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
