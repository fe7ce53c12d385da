/* What the kernel computes with: a model, the tokens that are under way, and threads' own memory. */

#pragma once

#include "low_rank.h"
#include "products.h"
#include "rows.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { CHUNK = 64 };  /* tokens of a cache that are attended to in one piece */
enum { MOST = 16 };   /* tokens that are decoded at once */
enum { TARGETS = 7 }; /* matrices of a layer that an adapter may change, in the phases' order */
enum { TARGETS_AT_ONCE = 3 }; /* of them in one phase */

typedef struct {
    const uint8_t *bands;
    const uint16_t *scales; /* INT8 only */
    const float *bias;      /* one a row, zeros behind them up to a whole band, or NULL */
    int64_t count;
    int64_t width; /* numbers in a row */
    int64_t format;
} Matrix;

typedef struct {
    Matrix query_key_value, output, gate, up, down;
    const float *attention_norm, *mlp_norm;
    const float *query_norm, *key_norm; /* (head_size,), or NULL */
} Layer;

typedef struct {
    int64_t layers, hidden, heads, key_heads, head_size, inner;
    float epsilon;
    const number *embedding; /* (vocabulary, hidden) */
    const Layer *layer;
    const float *norm;
    Matrix head;
} Model;

/* Tokens that follow each other, and the cache that they are added to. */
typedef struct {
    number *keys, *values;                         /* (layers, key_heads, room, row) */
    int64_t layer_stride, head_stride, row_stride; /* in numbers; a row is a multiple of LANES */
    int64_t length;                                /* tokens that are there already */
    int64_t count;                                 /* tokens to be added */
    const Addition *adapter;                       /* (layers, TARGETS), or NULL */
} Sequence;

/* One token that is under way. */
typedef struct {
    const Sequence *sequence;
    int64_t position;
    const float *rotation; /* cosines, then sines, of the position's angles */
    float *partial;        /* what the chunks of the cache gave: (heads, chunks, row + 2) */
    int64_t chunks;        /* of the sequence, not all of which need be the entry's */
} Entry;

/* What a thread needs for itself; whatever is for one token is there for each. */
typedef struct {
    float *vector, *attended, *low, *query, *scores;
    Input input; /* `vector`, `attended` or what all threads share */
    unsigned job;
    int64_t phase; /* `input` and `low` are prepared for it */
} Scratch;

typedef struct {
    _Alignas(64) atomic_ullong ticket; /* phase, pieces and next piece of it; see `ticket_of` */
    _Alignas(64) atomic_uint finished; /* pieces of the phase */
    _Alignas(64) atomic_uint job;      /* counts the calls */
    Model model;
    int64_t hidden, attended, projected, inner; /* floats from one token to the next */
    int64_t entry_count, most_rank;
    Entry entries[MOST];
    float *logits; /* (entries, vocabulary) */
    float *stream, *projections, *gate, *up;
    float *partial, *low; /* of all entries, and of all threads */
    int64_t partial_room, low_room;
    float *memory;
    Scratch *scratch;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool closing;
    int threads, started;
    pthread_t *helpers;
} Decoder;

static void normalize(const float *x, const float *weight, int64_t size, float epsilon, float *out)
{
    lanes squares = {0};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        squares += load(x + i) * load(x + i);
    float sum = total(squares);
    for (; i < size; i++)
        sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(sum / (float)size + epsilon);
    for (i = 0; i < size; i++)
        out[i] = x[i] * scale * weight[i];
}
