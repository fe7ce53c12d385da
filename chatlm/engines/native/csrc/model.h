/* Data structures of the decoder: the model as a program of steps, sequences, tokens and buffers;
   and RMSNorm. */

#pragma once

#include "linear_memory.h"
#include "lora.h"
#include "matmul.h"
#include "packing.h"
#include "prompt_matmul.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { KV_CHUNK = 64 };        /* tokens of the KV cache that one attention task reads */
enum { KV_GROUP = 32 };        /* values of a quantized KV cache that share a scale */
enum { MAX_STEP_TOKENS = 16 }; /* tokens per call */
enum { MAX_STEP_MATRICES = 4 };

typedef struct {
    const uint8_t *panels;
    const float *bias; /* (rows,) padded with zeros to whole panels, or NULL */
    int64_t rows;
    int64_t width; /* padded columns */
    int64_t format;
} PackedMatrix;

/* --- the program ----------------------------------------------------------------------------- */

/* A model is a list of steps, which a call runs one after the other. They exchange vectors, one per
   token, by buffers; buffer 0 is the residual stream. The numbers are those of program.py. */

enum {
    STEP_MATMUL,
    STEP_ATTENTION,
    STEP_CONV,
    STEP_MEMORY,
    STEP_EXPERTS_GATE_UP,
    STEP_EXPERTS_DOWN
};

typedef struct {
    int64_t kind;
    const void *detail; /* MatmulStep, AttentionStep, ConvStep, MemoryStep or ExpertsStep */
} Step;

enum { RESIDUAL = 0 };

/* Grouped-query attention; writes partial results, which the matmul step after it merges. */
typedef struct {
    int64_t num_attention_heads, num_key_value_heads, head_dim;
    int64_t number;      /* among the layers with attention */
    int64_t kv_layer;    /* index among the layers of the KV cache */
    int64_t window;      /* tokens that a token attends to, with itself; 0 for all */
    int64_t qkv_buffer;  /* queries of all heads, then what the next three say */
    int64_t keys;        /* the first value of the keys, or -1 where another layer stores them */
    int64_t values;      /* likewise; may be the keys */
    int64_t gate;        /* first value there whose sigmoids multiply the output, or -1 */
    int64_t rope;        /* index among the RoPE tables, or -1 */
    int64_t rotary_dim;  /* values of a head that rotate */
    int64_t interleaved; /* whether pairs are neighbours instead of half of rotary_dim apart */
    float scale;
    float softcap;                /* of the scores, or 0 */
    const float *q_norm, *k_norm, *v_norm; /* (head_dim,), or NULL */
    const float *sinks;           /* (heads,): scores without a value, or NULL */
} AttentionStep;

enum { INPUT_RESIDUAL, INPUT_BUFFER, INPUT_ATTENTION };
enum { OUTPUT_BUFFER, OUTPUT_RESIDUAL, OUTPUT_LOGITS };

enum { MAX_EXPERTS_PER_TOKEN = 16 };

/* A mixture of experts. */
typedef struct {
    const PackedMatrix *gate_proj, *up_proj, *down_proj; /* one per expert */
    int64_t num_experts, num_experts_per_tok;
    int64_t normalised; /* whether a token's weights sum to 1, rather than those of all experts */
    int64_t has_sigmoids;     /* whether weights are sigmoids of the logits, rather than a softmax */
    const float *choice_bias; /* added to the sigmoids by which experts are chosen, or NULL */
    float scaling;            /* of the weights */
    float swiglu_limit, swiglu_alpha; /* of clamped SwiGLU; a limit of 0 stands for plain SwiGLU */
} Moe;

/* What both steps of a mixture of experts need. */
typedef struct {
    Moe moe;
    const float *norm;    /* of the residual stream, which is the input, or NULL */
    int64_t inner_buffer; /* the inner values of a token's experts, one after the other */
    int64_t up_buffer;    /* where the products of up_proj go before */
    float multiplier;     /* of what is added to the residual */
} ExpertsStep;

typedef struct {
    PackedMatrix matrix;
    int64_t lora; /* index among the pairs of an adapter */
} StepMatrix;

/* Values of an output vector that are normalized together when the step is done, `count` times one
   after the other. */
typedef struct {
    const float *weight;
    int64_t offset, size, count;
    float epsilon;
} NormSpan;

/* Products of one to four matrices with the same input. Their outputs lie one after the other;
   those of a gated step are combined to `activation(gate) * up`. */
typedef struct {
    StepMatrix matrices[MAX_STEP_MATRICES];
    int64_t matrix_count;
    int64_t input, input_buffer;
    int64_t input_size;             /* values of a vector, without padding */
    const float *norm;              /* of INPUT_RESIDUAL, or NULL */
    const AttentionStep *attention; /* of INPUT_ATTENTION */
    int64_t output, output_buffer;
    int64_t gate, up_buffer; /* which activation; where `up` goes before it is multiplied, or is */
    int64_t up_offset;       /* already, if there is one matrix */
    NormSpan norms[2];       /* of the whole output, applied when the step is done */
    int64_t norm_count;
    int64_t sum_buffer, sum_size; /* to which the output is added after its norm, or -1 */
    float multiplier;             /* of what is added to that or to the residual */
    float sum_scale;              /* by which the sum is multiplied */
    const Moe *routes;   /* whose experts the output chooses when the step is done, or NULL */
    int64_t share_buffer, share_offset; /* of a gated step: a value there, per token, whose sigmoid
                                           multiplies the output; or -1 */
} MatmulStep;

/* A causal convolution of some values of a vector. */
typedef struct {
    CausalConv conv;
    int64_t input_buffer, output_buffer;
    int64_t input, input_gate, output_gate; /* the first values there; -1 for no gate */
    int64_t output;
    int64_t state, log; /* offsets in a sequence's state, and in a row of its log */
} ConvStep;

/* Linear attention. */
typedef struct {
    LinearMemory memory;
    int64_t input_buffer, output_buffer;
    int64_t state, log;
    const float *norm; /* of the whole output, Mamba-2's, in groups; or NULL */
    int64_t norm_groups;
} MemoryStep;

typedef struct {
    int64_t hidden_size;
    float rms_norm_eps, embedding_multiplier;
    StoredMatrix embed_tokens; /* (vocab_size, hidden_size), as it is in the file */
    StoredMatrix input_table;  /* whose rows, multiplied, are in a buffer when a call begins */
    int64_t input_buffer;      /* or -1 for no such table */
    float input_multiplier;
    const Step *steps;         /* the last one computes the logits */
    int64_t step_count;
    const int64_t *buffer_sizes; /* floats of a vector */
    int64_t buffer_count;
    int64_t lora_count; /* matrices that an adapter may change */
} Model;

/* An expert, and which slots belong to it; a slot is a token that uses the expert. */
typedef struct {
    int64_t expert, first_slot, slots;
} ChosenExpert;

enum { MAX_SLOTS = MAX_STEP_TOKENS * MAX_EXPERTS_PER_TOKEN };

/* The experts of all tokens of a call, ordered by their indices. */
typedef struct {
    int64_t chosen_count, slot_count;
    ChosenExpert chosen[MAX_SLOTS];
    int64_t tokens[MAX_SLOTS];
    float weights[MAX_SLOTS];
} Routing;

/* --- calls ----------------------------------------------------------------------------------- */

/* Where one layer's keys and values are: (KV heads, capacity, padded head_dim) of `element_t`. With
   scales, (KV heads, capacity, groups) in bfloat16, they are int8_t codes that these multiply. A
   token's row is padded to LANES values, or to whole groups. */
typedef struct {
    void *keys, *values;
    uint16_t *key_scales, *value_scales;
} KVLayer;

/* Consecutive tokens of one sequence, its KV cache and its recurrent state. */
typedef struct {
    const KVLayer *kv_layers;
    int64_t capacity;     /* of the cache, in tokens */
    int64_t length;       /* tokens in the cache */
    int64_t token_count;  /* tokens to add */
    const LoraPair *lora; /* one per adaptable matrix, or NULL */
    /* of each RoPE of the model: (positions, rotary_dim), half of a row cosines, then sines */
    const float *const *ropes;
    /* of all recurrent layers: the state after the first token of the call before, and rows for its
       other tokens, of which the sequence has kept `accepted`; see RecurrentInput */
    float *state, *log;
    int64_t accepted, log_stride;
} SequenceInput;

/* One token of the current call. */
typedef struct {
    const SequenceInput *sequence;
    int64_t position;
    float *partial_attention; /* of an attention step: (heads, chunks, padded head_dim + 2) */
} TokenState;

/* A call that multiplies matrices with the vectors of a prompt. */
typedef struct {
    const PackedMatrix *matrices; /* of the same width, and multiplied in the same form */
    int64_t count;
    PromptVectors x;
    float *const *y; /* one per matrix */
} PromptCall;

typedef struct ExpertsPrompt ExpertsPrompt;
typedef struct PromptAttention PromptAttention;

/* One thread's buffers, each with one row per token where it is per token. */
typedef struct {
    float *prepared, *lora_hidden, *query, *attention_scores;
    float *kv_scales; /* of a chunk's keys, then of its values */
    float *attention; /* see prompt_attention_size */
    float *memory;    /* see memory_scratch_size */
    Activations input; /* of `prepared` or of a buffer */
    Activations step_input; /* of the current matmul step: `input`, its own or the first thread's */
    Activations gathered; /* of up to MAX_VECTORS tokens that use the same expert */
    PromptBuffers prompt;
    unsigned call;
    int64_t phase; /* for which the input and `lora_hidden` are prepared */
} ThreadScratch;

/* How far the threads are that prepare the input of a step together, in tokens. */
typedef struct {
    _Alignas(64) atomic_uint next;
    _Alignas(64) atomic_uint ready;
} InputProgress;

typedef struct {
    _Alignas(64) atomic_ullong ticket; /* phase, its tasks and the next one; see make_ticket */
    _Alignas(64) atomic_uint finished_tasks; /* of the current phase */
    _Alignas(64) atomic_uint call;           /* counts the calls */
    Model model;
    float **buffers;
    int64_t *strides; /* floats from one token to the next, by buffer */
    Routing *routing; /* by the last router */
    InputProgress *input_progress; /* of the current phase */
    int64_t token_count, max_lora_rank;
    TokenState tokens[MAX_STEP_TOKENS];
    float *logits; /* (tokens, vocab_size) */
    PromptCall prompt;
    const PromptAttention *prompt_attention; /* of a call that adds a block to a KV cache */
    const ExpertsPrompt *experts_prompt; /* of a call that multiplies experts with a prompt */
    float *prompt_area; /* the converted vectors of a prompt, and the inner values of experts */
    int64_t prompt_capacity;
    bool is_normalized; /* the residual of a call for lm_head alone */
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

enum { SPINS_BEFORE_YIELD = 4000 };

static inline void spin_wait(int *spins)
{
    if (++*spins > SPINS_BEFORE_YIELD)
        sched_yield(); /* the other thread may be waiting for this core */
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

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
