/* Attention to caches in which several tokens may follow each other, and which are read in chunks. */

#pragma once

#include "model.h"

/* One head's vector, normalized where the model does that, and turned to its position. */
static void rotate(const Decoder *d, const Entry *e, const float *x, const float *norm, float *out)
{
    int64_t half = d->model.head_size / 2;
    const float *cosine = e->rotation, *sine = e->rotation + half;
    if (norm)
        normalize(x, norm, 2 * half, d->model.epsilon, out);
    else
        memcpy(out, x, (size_t)(2 * half) * sizeof *out);
    for (int64_t i = 0; i < half; i++) {
        float a = out[i], b = out[i + half];
        out[i] = a * cosine[i] - b * sine[i];
        out[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* Puts the token's own key and value of one key head into the cache. */
static void remember(const Decoder *d, const Layer *layer, int64_t entry, int64_t head, float *key,
                     number *keys, number *values)
{
    const Model *m = &d->model;
    const float *projected = d->projections + entry * d->projected;
    projected += (m->heads + head) * m->head_size;
    rotate(d, &d->entries[entry], projected, layer->key_norm, key);
    projected += m->key_heads * m->head_size;
    for (int64_t i = 0; i < m->head_size; i++) {
        keys[i] = to_number(key[i]);
        values[i] = to_number(projected[i]);
    }
}

/* Tokens of a chunk that an entry attends to, itself and those before. */
static int64_t seen_by(const Entry *e, int64_t first)
{
    return greater(lesser(e->position + 1 - first, CHUNK), 0);
}

/* The queries of a token that read one key head, scaled, with zeros up to a row. */
static void ask(const Decoder *d, const Layer *layer, int64_t entry, int64_t head, float *out)
{
    const Model *m = &d->model;
    const Entry *e = &d->entries[entry];
    int64_t size = m->head_size, row = e->sequence->row_stride, queries = m->heads / m->key_heads;
    const float *projected = d->projections + entry * d->projected + head * queries * size;
    float scale = 1.0f / sqrtf((float)size);
    for (int64_t q = 0; q < queries; q++, projected += size, out += row) {
        rotate(d, e, projected, layer->query_norm, out);
        for (int64_t i = 0; i < row; i++)
            out[i] = i < size ? out[i] * scale : 0.0f;
    }
}

/* What a token sees of one chunk of one key head. */
typedef struct {
    const number *keys, *values; /* (tokens, row) */
    int64_t tokens, row;
} Seen;

/* The products of `count` queries with each key. What is read after that is fetched. */
ALWAYS_INLINE void score(Seen seen, const float *queries, float *scores, const int count)
{
    const number *keys = seen.keys, *values = seen.values;
    int64_t row = seen.row;
    for (int64_t t = 0; t < seen.tokens; t++, keys += row, values += row) {
        lanes sums[FEW] = {0};
        for (int64_t i = 0; i < row; i += LANES) {
            __builtin_prefetch(values + i);
            __builtin_prefetch(keys + CHUNK * row + i);
        }
        for (int64_t i = 0; i < row; i += LANES) {
            lanes key = widened(keys + i);
            for (int q = 0; q < count; q++)
                sums[q] += key * load(queries + q * row + i);
        }
        for (int q = 0; q < count; q++)
            scores[q * CHUNK + t] = total(sums[q]);
    }
}

/* CHUNK scores, the first `tokens` of which count, to weights relative to the greatest; the others
   become 0. Writes that score and the weights' sum. */
static void weigh(float *scores, int64_t tokens, float *most, float *sum)
{
    lanes all = {0};
    float greatest[LANES];
    for (int64_t t = tokens; t < CHUNK; t++)
        scores[t] = scores[0];
    memcpy(greatest, scores, sizeof greatest);
    for (int64_t t = LANES; t < CHUNK; t += LANES)
        for (int i = 0; i < LANES; i++)
            greatest[i] = scores[t + i] > greatest[i] ? scores[t + i] : greatest[i];
    for (int i = 1; i < LANES; i++)
        greatest[0] = greatest[i] > greatest[0] ? greatest[i] : greatest[0];
    float base = greatest[0];
    for (int64_t t = 0; t < CHUNK; t++)
        scores[t] = exponential(scores[t] - base);
    for (int64_t t = tokens; t < CHUNK; t++)
        scores[t] = 0.0f;
    for (int64_t t = 0; t < CHUNK; t += LANES)
        all += load(scores + t);
    *most = base, *sum = total(all);
}

/* The values, summed by `count` queries' weights; each sum stands `apart` floats further. */
ALWAYS_INLINE void sum_up(Seen seen, const float *weights, float *out, int64_t apart,
                          const int count)
{
    int64_t tokens = seen.tokens, row = seen.row;
    for (int64_t i = 0; i < row; i += LANES) {
        lanes sums[FEW][2] = {0};
        const number *value = seen.values + i;
        for (int64_t t = 0; t + 1 < tokens; t += 2, value += 2 * row) {
            lanes even = widened(value), odd = widened(value + row);
            for (int q = 0; q < count; q++) {
                sums[q][0] += even * weights[q * CHUNK + t];
                sums[q][1] += odd * weights[q * CHUNK + t + 1];
            }
        }
        if (tokens % 2)
            for (int q = 0; q < count; q++)
                sums[q][0] += widened(value) * weights[q * CHUNK + tokens - 1];
        for (int q = 0; q < count; q++) {
            lanes sum = sums[q][0] + sums[q][1];
            memcpy(out + q * apart + i, &sum, sizeof sum);
        }
    }
}

ALWAYS_INLINE void look(Seen seen, const float *queries, float *scores, float *out, int64_t apart,
                        const int count)
{
    score(seen, queries, scores, count);
    for (int q = 0; q < count; q++, scores += CHUNK) {
        float *most = out + q * apart + seen.row;
        weigh(scores, seen.tokens, most, most + 1);
    }
    sum_up(seen, scores - count * CHUNK, out, apart, count);
}

/* How one key head's queries attend to one chunk of a sequence's cache: for each query of each of
   its tokens the weighted sum of the values, the greatest score and the sum of the weights relative
   to it. The tokens' own keys and values are put into the chunk first. */
static void attend(const Decoder *d, int64_t index, int64_t piece, const Scratch *s)
{
    const Model *m = &d->model;
    const Layer *layer = &m->layer[index];
    const Entry *e = d->entries;
    while (piece >= m->key_heads * e->chunks)
        piece -= m->key_heads * e->chunks, e += e->sequence->count;
    const Sequence *sequence = e->sequence;
    int64_t head = piece / e->chunks, chunk = piece % e->chunks, first = chunk * CHUNK;
    int64_t row = sequence->row_stride, queries = m->heads / m->key_heads;
    int64_t at = index * sequence->layer_stride + head * sequence->head_stride + first * row;
    number *keys = sequence->keys + at, *values = sequence->values + at;
    const Entry *end = e + sequence->count;
    for (const Entry *own = e; own < end; own++) {
        int64_t place = own->position - first;
        if (0 <= place && place < CHUNK)
            remember(d, layer, own - d->entries, head, s->query, keys + place * row,
                     values + place * row);
    }
    for (; e < end; e++) {
        Seen seen = {keys, values, seen_by(e, first), row};
        int64_t apart = e->chunks * (row + 2);
        float *query = s->query, *part = e->partial + head * queries * apart + chunk * (row + 2);
        if (!seen.tokens)
            continue;
        ask(d, layer, e - d->entries, head, query);
        for (int64_t q = queries; q > 0; q -= FEW, query += FEW * row, part += FEW * apart)
            if (q == 1)
                look(seen, query, s->scores, part, apart, 1);
            else if (q == 2)
                look(seen, query, s->scores, part, apart, 2);
            else if (q == 3)
                look(seen, query, s->scores, part, apart, 3);
            else
                look(seen, query, s->scores, part, apart, FEW);
    }
}

/* Joins what the chunks gave into the input of the output projection. */
static void gather(const Decoder *d, const Entry *e, float *out)
{
    const Model *m = &d->model;
    int64_t row = e->sequence->row_stride, size = row + 2, chunks = e->position / CHUNK + 1;
    for (int64_t h = 0; h < m->heads; h++, out += m->head_size) {
        const float *parts = e->partial + h * e->chunks * size;
        float most = parts[row], sum = 0.0f;
        for (int64_t c = 1; c < chunks; c++)
            most = parts[c * size + row] > most ? parts[c * size + row] : most;
        memset(out, 0, (size_t)m->head_size * sizeof *out);
        for (int64_t c = 0; c < chunks; c++, parts += size) {
            float weight = exponential(parts[row] - most);
            sum += weight * parts[row + 1];
            for (int64_t i = 0; i < m->head_size; i++)
                out[i] += weight * parts[i];
        }
        for (int64_t i = 0; i < m->head_size; i++)
            out[i] /= sum;
    }
}
