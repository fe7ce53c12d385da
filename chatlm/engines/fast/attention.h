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

/* Rows of keys or values as floats, once for all queries that read them. */
static void widen_rows(const number *from, int64_t count, float *to)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = to_float(from[i]);
}

/* Scores to weights relative to the greatest; writes that score and the weights' sum. */
static void weigh(float *scores, int64_t tokens, float *most, float *sum)
{
    *most = scores[0], *sum = 0.0f;
    for (int64_t t = 1; t < tokens; t++)
        *most = scores[t] > *most ? scores[t] : *most;
    for (int64_t t = 0; t < tokens; t++)
        scores[t] = exponential(scores[t] - *most);
    for (int64_t t = 0; t < tokens; t++)
        *sum += scores[t];
}

/* Tokens of a chunk that an entry attends to, itself and those before. */
static int64_t seen_by(const Entry *e, int64_t first)
{
    return greater(lesser(e->position + 1 - first, CHUNK), 0);
}

/* The scores of one key head's queries of a token, as weights; `s->rows` holds the keys. */
static void score(const Decoder *d, const Layer *layer, int64_t entry, int64_t head, int64_t tokens,
                  float *parts, float *scores, const Scratch *s)
{
    const Model *m = &d->model;
    const Entry *e = &d->entries[entry];
    int64_t size = m->head_size, row = e->sequence->row_stride, queries = m->heads / m->key_heads;
    const float *projected = d->projections + entry * d->projected + head * queries * size;
    float scale = 1.0f / sqrtf((float)size);
    for (int64_t q = 0; q < queries; q++, scores += CHUNK, parts += e->chunks * (row + 2)) {
        rotate(d, e, projected + q * size, layer->query_norm, s->query);
        for (int64_t i = 0; i < row; i++)
            s->query[i] = i < size ? s->query[i] * scale : 0.0f;
        for (int64_t t = 0; t < tokens; t++) {
            lanes score = {0};
            for (int64_t i = 0; i < row; i += LANES)
                score += load(s->rows + t * row + i) * load(s->query + i);
            scores[t] = total(score);
        }
        weigh(scores, tokens, parts + row, parts + row + 1);
    }
}

/* The weighted sums of the values, which `s->rows` holds. */
static void sum_up(const Decoder *d, const Entry *e, int64_t tokens, float *parts,
                   const float *scores, const Scratch *s)
{
    int64_t row = e->sequence->row_stride, queries = d->model.heads / d->model.key_heads;
    for (int64_t q = 0; q < queries; q++, scores += CHUNK, parts += e->chunks * (row + 2))
        for (int64_t i = 0; i < row; i += LANES) {
            const float *value = s->rows + i;
            lanes even = {0}, odd = {0};
            for (int64_t t = 0; t + 1 < tokens; t += 2, value += 2 * row) {
                even += load(value) * scores[t];
                odd += load(value + row) * scores[t + 1];
            }
            if (tokens % 2)
                even += load(value) * scores[tokens - 1];
            even += odd;
            memcpy(parts + i, &even, sizeof even);
        }
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
    int64_t tokens = lesser(sequence->length + sequence->count - first, CHUNK);
    int64_t at = index * sequence->layer_stride + head * sequence->head_stride + first * row;
    number *keys = sequence->keys + at, *values = sequence->values + at;
    int64_t offset = (head * queries * e->chunks + chunk) * (row + 2);
    const Entry *end = e + sequence->count;
    for (const Entry *own = e; own < end; own++) {
        int64_t place = own->position - first;
        if (0 <= place && place < CHUNK)
            remember(d, layer, own - d->entries, head, s->query, keys + place * row,
                     values + place * row);
    }
    widen_rows(keys, tokens * row, s->rows);
    float *scores = s->scores;
    for (const Entry *own = e; own < end; own++, scores += queries * CHUNK)
        if (seen_by(own, first))
            score(d, layer, own - d->entries, head, seen_by(own, first), own->partial + offset,
                  scores, s);
    widen_rows(values, tokens * row, s->rows);
    scores = s->scores;
    for (const Entry *own = e; own < end; own++, scores += queries * CHUNK)
        if (seen_by(own, first))
            sum_up(d, own, seen_by(own, first), own->partial + offset, scores, s);
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
