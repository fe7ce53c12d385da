/* Decodes tokens of a Llama-type model, one at a time; knows nothing of Python, files or text.

   The weights are read once a token, and how fast memory delivers them is how fast a token comes.
   A token is a row of phases, and a phase a number of pieces, such as some rows of a matrix. Each
   thread takes the next piece of the phase until there is none; whoever finishes the last one opens
   the next phase. So a thread that comes late or runs on a slow core holds no other up by more than
   its piece, and no number depends on how many threads there are. */

#include "low_rank.h"
#include "rows.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { CHUNK = 64, PIECE_BYTES = 32 * 1024, PIECES_PER_THREAD = 8 };
enum { SPINS_BEFORE_SLEEP = 2000, SPINS_BEFORE_YIELD = 4000 };

typedef struct {
    const uint8_t *rows;
    const uint16_t *scales; /* one a step, bfloat16; INT8 only */
    const float *bias;      /* one a row, or NULL */
    int64_t count;
    int64_t width; /* numbers in a row, a multiple of STEP: zeros stand behind the model's own */
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

typedef struct {
    number *keys, *values;                         /* (layers, key_heads, room, row) */
    int64_t layer_stride, head_stride, row_stride; /* in numbers; a row is a multiple of LANES */
    int64_t length;                                /* tokens that are there already */
} Cache;

/* What a thread needs for itself. */
typedef struct {
    float *vector, *attended, *sums, *query, *scores, *rows;
    float *low; /* what the adapter's lower halves give: (additions of a phase, most_rank) */
    unsigned job;
    int64_t phase; /* all of these that it needs are prepared for it */
} Scratch;

typedef struct {
    _Alignas(64) atomic_ullong ticket; /* phase, pieces and next piece of it; see `ticket_of` */
    _Alignas(64) atomic_uint finished; /* pieces of the phase */
    _Alignas(64) atomic_uint job;      /* counts the tokens */
    Model model;
    Cache cache;
    int64_t token, chunks;
    const float *rotation;
    float *logits;
    float *stream, *projected, *gate, *up;
    float *partial; /* what the chunks of the cache gave: (heads, chunks, row + 2) */
    int64_t partial_room;
    const Addition *adapter; /* (layers, TARGETS), or NULL */
    float *low;              /* of all threads */
    int64_t most_rank, low_room;
    float *memory;
    Scratch *scratch;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool closing;
    int threads, started;
    pthread_t *helpers;
} Decoder;

/* --- steps --------------------------------------------------------------------------------- */

/* Rows of a piece of a matrix: few enough to share the work well, whole cache lines of results. */
static int64_t piece_rows(const Decoder *d, const Matrix *m)
{
    int64_t rows = PIECE_BYTES / row_bytes(m->format, m->width);
    return padded(greater(greater(rows, m->count / (d->threads * PIECES_PER_THREAD)), 1), LANES);
}

static int64_t pieces_of(const Decoder *d, const Matrix *m)
{
    return (m->count + piece_rows(d, m) - 1) / piece_rows(d, m);
}

/* y = matrix x + bias, or y += it, for a piece of the rows. x has `width` floats, zeros behind. */
static void multiply(const Decoder *d, const Matrix *m, int64_t piece, const float *x,
                     const float *sums, float *y, bool add)
{
    int64_t from = piece * piece_rows(d, m), to = lesser(from + piece_rows(d, m), m->count);
    int64_t size = row_bytes(m->format, m->width);
    const uint8_t *row = m->rows + from * size;
    for (int64_t r = from; r < to; r++, row += size) {
        float sum = m->format == INT8   ? dot_int8(row, m->scales + r * m->width / STEP, x, m->width)
                    : m->format == INT4 ? dot_int4(row, x, sums, m->width)
                                        : dot_bf16(row, x, m->width);
        if (m->bias)
            sum += m->bias[r];
        y[r] = add ? y[r] + sum : sum;
    }
}

/* What the adapter adds to the same rows, one addition or several. */
static void adapt(const Decoder *d, const Matrix *m, int64_t piece, const Addition *additions,
                  int64_t count, const float *low, float *y)
{
    int64_t from = piece * piece_rows(d, m), to = lesser(from + piece_rows(d, m), m->count);
    for (int64_t i = 0; i < count; i++)
        project_up(&additions[i], low + i * d->most_rank, from, to, y);
}

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

/* One head's vector, normalized where the model does that, and turned to its position. */
static void rotate(const Decoder *d, const float *x, const float *norm, float *out)
{
    int64_t half = d->model.head_size / 2;
    const float *cosine = d->rotation, *sine = d->rotation + half;
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
static void remember(const Decoder *d, const Layer *layer, int64_t head, float *key,
                     number *keys, number *values)
{
    const Model *m = &d->model;
    const float *projected = d->projected + (m->heads + head) * m->head_size;
    rotate(d, projected, layer->key_norm, key);
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

/* How one key head's queries attend to one chunk of the cache: for each query the weighted sum of
   the values, the greatest score and the sum of the weights relative to it. */
static void attend(const Decoder *d, int64_t index, int64_t piece, const Scratch *s)
{
    const Model *m = &d->model;
    const Layer *layer = &m->layer[index];
    int64_t head = piece / d->chunks, chunk = piece % d->chunks;
    int64_t size = m->head_size, row = d->cache.row_stride, queries = m->heads / m->key_heads;
    int64_t first = chunk * CHUNK, tokens = lesser(d->cache.length + 1 - first, CHUNK);
    int64_t at = index * d->cache.layer_stride + head * d->cache.head_stride + first * row;
    number *keys = d->cache.keys + at, *values = d->cache.values + at;
    float *parts = d->partial + (head * queries * d->chunks + chunk) * (row + 2);
    int64_t stride = d->chunks * (row + 2);
    if (chunk == d->chunks - 1) {
        int64_t last = (tokens - 1) * row;
        remember(d, layer, head, s->query, keys + last, values + last);
    }
    widen_rows(keys, tokens * row, s->rows);
    for (int64_t q = 0; q < queries; q++) {
        float *scores = s->scores + q * CHUNK, scale = 1.0f / sqrtf((float)size);
        rotate(d, d->projected + (head * queries + q) * size, layer->query_norm, s->query);
        for (int64_t i = 0; i < row; i++)
            s->query[i] = i < size ? s->query[i] * scale : 0.0f;
        for (int64_t t = 0; t < tokens; t++) {
            lanes score = {0};
            for (int64_t i = 0; i < row; i += LANES)
                score += load(s->rows + t * row + i) * load(s->query + i);
            scores[t] = total(score);
        }
        weigh(scores, tokens, parts + q * stride + row, parts + q * stride + row + 1);
    }
    widen_rows(values, tokens * row, s->rows);
    for (int64_t q = 0; q < queries; q++)
        for (int64_t i = 0; i < row; i += LANES) {
            const float *scores = s->scores + q * CHUNK, *value = s->rows + i;
            lanes even = {0}, odd = {0};
            for (int64_t t = 0; t + 1 < tokens; t += 2, value += 2 * row) {
                even += load(value) * scores[t];
                odd += load(value + row) * scores[t + 1];
            }
            if (tokens % 2)
                even += load(value) * scores[tokens - 1];
            even += odd;
            memcpy(parts + q * stride + i, &even, sizeof even);
        }
}

/* Joins what the chunks gave into the input of the output projection. */
static void gather(const Decoder *d, float *out)
{
    const Model *m = &d->model;
    int64_t row = d->cache.row_stride, size = row + 2;
    for (int64_t h = 0; h < m->heads; h++, out += m->head_size) {
        const float *parts = d->partial + h * d->chunks * size;
        float most = parts[row], sum = 0.0f;
        for (int64_t c = 1; c < d->chunks; c++)
            most = parts[c * size + row] > most ? parts[c * size + row] : most;
        memset(out, 0, (size_t)m->head_size * sizeof *out);
        for (int64_t c = 0; c < d->chunks; c++, parts += size) {
            float weight = exponential(parts[row] - most);
            sum += weight * parts[row + 1];
            for (int64_t i = 0; i < m->head_size; i++)
                out[i] += weight * parts[i];
        }
        for (int64_t i = 0; i < m->head_size; i++)
            out[i] /= sum;
    }
}

static void mlp(const Decoder *d, const Layer *layer, int64_t piece, const Addition *additions,
                const Scratch *s)
{
    int64_t rows = piece_rows(d, &layer->gate), from = piece * rows;
    multiply(d, &layer->gate, piece, s->vector, s->sums, d->gate, false);
    multiply(d, &layer->up, piece, s->vector, s->sums, d->up, false);
    if (additions) {
        adapt(d, &layer->gate, piece, additions, 1, s->low, d->gate);
        adapt(d, &layer->up, piece, additions + 1, 1, s->low + d->most_rank, d->up);
    }
    for (int64_t i = from; i < lesser(from + rows, d->model.inner); i++)
        d->gate[i] = d->gate[i] / (1.0f + exponential(-d->gate[i])) * d->up[i];
}

/* --- phases -------------------------------------------------------------------------------- */

enum { PROJECT, ATTEND, OUTPUT, MLP, DOWN, PHASES }; /* of each layer; then the head; then none */

static int64_t head_of(const Model *m) { return m->layers * PHASES; }
static int64_t end_of(const Model *m) { return m->layers * PHASES + 1; }

/* The matrix whose rows are a phase's pieces. */
static const Matrix *matrix_of(const Model *m, int64_t phase)
{
    if (phase == head_of(m))
        return &m->head;
    const Layer *layer = &m->layer[phase / PHASES];
    switch (phase % PHASES) {
    case PROJECT: return &layer->query_key_value;
    case OUTPUT: return &layer->output;
    case MLP: return &layer->gate;
    case DOWN: return &layer->down;
    default: return NULL;
    }
}

enum { TARGETS = 7 }; /* matrices of a layer that an adapter may change, in the phases' order */
enum { MOST_AT_ONCE = 3 }; /* of them in one phase */

/* What the adapter adds in a phase; writes to how many matrices. */
static const Addition *additions_of(const Decoder *d, int64_t phase, int64_t *count)
{
    static const int64_t first[PHASES] = {[PROJECT] = 0, [OUTPUT] = 3, [MLP] = 4, [DOWN] = 6};
    static const int64_t counts[PHASES] = {[PROJECT] = 3, [OUTPUT] = 1, [MLP] = 2, [DOWN] = 1};
    *count = 0;
    if (!d->adapter || phase == head_of(&d->model))
        return NULL;
    *count = counts[phase % PHASES];
    return d->adapter + phase / PHASES * TARGETS + first[phase % PHASES];
}

/* What a thread computes for itself before its first piece of a phase; returns the input. */
static const float *prepared(const Decoder *d, int64_t phase, Scratch *s)
{
    const Model *m = &d->model;
    const Matrix *matrix = matrix_of(m, phase);
    bool head = phase == head_of(m);
    const Layer *layer = head ? NULL : &m->layer[phase / PHASES];
    int64_t kind = head ? PROJECT : phase % PHASES;
    const float *input = kind == OUTPUT ? s->attended : kind == DOWN ? d->gate : s->vector;
    if (s->job == atomic_load(&d->job) && s->phase == phase)
        return input;
    s->job = atomic_load(&d->job), s->phase = phase;
    if (kind == OUTPUT)
        gather(d, s->attended);
    else if (kind == PROJECT || kind == MLP)
        normalize(d->stream, head ? m->norm : kind == MLP ? layer->mlp_norm : layer->attention_norm,
                  m->hidden, m->epsilon, s->vector);
    if (matrix && matrix->format == INT4)
        add_up_groups(input, matrix->width, s->sums);
    int64_t count;
    const Addition *additions = additions_of(d, phase, &count);
    for (int64_t i = 0; i < count; i++)
        project_down(&additions[i], input, s->low + i * d->most_rank);
    return input;
}

static void do_piece(const Decoder *d, int64_t phase, int64_t piece, Scratch *s)
{
    const Model *m = &d->model;
    const Matrix *matrix = matrix_of(m, phase);
    const float *input = prepared(d, phase, s);
    int64_t count;
    const Addition *additions = additions_of(d, phase, &count);
    if (phase == head_of(m)) {
        multiply(d, matrix, piece, input, s->sums, d->logits, false);
    } else if (phase % PHASES == ATTEND) {
        attend(d, phase / PHASES, piece, s);
    } else if (phase % PHASES == MLP) {
        mlp(d, &m->layer[phase / PHASES], piece, additions, s);
    } else {
        bool projects = phase % PHASES == PROJECT;
        float *y = projects ? d->projected : d->stream;
        multiply(d, matrix, piece, input, s->sums, y, !projects);
        adapt(d, matrix, piece, additions, count, s->low, y);
    }
}

/* --- threads ------------------------------------------------------------------------------- */

/* Phase, pieces and next piece are one number, so that who takes a piece knows what it is of. */
static unsigned long long ticket_of(int64_t phase, int64_t pieces)
{
    return (unsigned long long)phase << 48 | (unsigned long long)pieces << 24;
}
static int64_t phase_of(unsigned long long ticket) { return (int64_t)(ticket >> 48); }
static int64_t pieces_in(unsigned long long ticket) { return ticket >> 24 & 0xffffff; }
static int64_t next_of(unsigned long long ticket) { return ticket & 0xffffff; }

static void open_phase(Decoder *d, int64_t phase)
{
    const Model *m = &d->model;
    const Matrix *matrix = phase <= head_of(m) ? matrix_of(m, phase) : NULL;
    int64_t pieces = matrix                          ? pieces_of(d, matrix)
                     : phase < head_of(m) ? m->key_heads * d->chunks
                                                  : 0;
    atomic_store(&d->finished, 0);
    atomic_store(&d->ticket, ticket_of(phase, pieces));
}

static inline void wait_a_little(int *spins)
{
    if (++*spins > SPINS_BEFORE_YIELD)
        sched_yield(); /* the other thread may be waiting for this very core */
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes pieces until the token is done. */
static void work(Decoder *d, Scratch *s)
{
    for (int spins = 0;;) {
        unsigned long long ticket = atomic_load(&d->ticket);
        if (phase_of(ticket) == end_of(&d->model))
            return;
        if (next_of(ticket) >= pieces_in(ticket)) {
            wait_a_little(&spins);
            continue;
        }
        ticket = atomic_fetch_add(&d->ticket, 1);
        if (next_of(ticket) >= pieces_in(ticket))
            continue;
        spins = 0;
        do_piece(d, phase_of(ticket), next_of(ticket), s);
        if (atomic_fetch_add(&d->finished, 1) + 1 == pieces_in(ticket))
            open_phase(d, phase_of(ticket) + 1);
    }
}

typedef struct {
    Decoder *decoder;
    int thread;
} Helper;

static void *help(void *given)
{
    Helper helper = *(Helper *)given;
    Decoder *d = helper.decoder;
    free(given);
    for (unsigned done = 0;;) {
        for (int spins = 0; spins < SPINS_BEFORE_SLEEP && atomic_load(&d->job) == done;)
            wait_a_little(&spins);
        pthread_mutex_lock(&d->lock);
        while (atomic_load(&d->job) == done)
            pthread_cond_wait(&d->wake, &d->lock);
        done = atomic_load(&d->job);
        bool closing = d->closing;
        pthread_mutex_unlock(&d->lock);
        if (closing)
            return NULL;
        work(d, &d->scratch[helper.thread]);
    }
}

/* Opens a phase and wakes the helpers for it. */
static void start(Decoder *d, int64_t phase, bool closing)
{
    pthread_mutex_lock(&d->lock);
    d->closing = closing;
    atomic_fetch_add(&d->job, 1); /* before a helper that is still awake can take a piece */
    open_phase(d, phase);
    pthread_cond_broadcast(&d->wake);
    pthread_mutex_unlock(&d->lock);
}

/* --- for the caller ------------------------------------------------------------------------ */

/* Frees a decoder; no other call may be under way. */
void close_decoder(Decoder *d)
{
    start(d, end_of(&d->model), true);
    for (int i = 0; i < d->started; i++)
        pthread_join(d->helpers[i], NULL);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->wake);
    free(d->memory), free(d->partial), free(d->low);
    free(d->scratch), free(d->helpers), free(d);
}

static float *take(float **memory, int64_t count)
{
    float *taken = *memory;
    *memory += padded(count, LANES);
    return taken;
}

/* Memory for all that threads share and need for themselves, zeros at first. */
static bool furnish(Decoder *d)
{
    const Model *m = &d->model;
    int64_t hidden = padded(m->hidden, STEP), inner = padded(m->inner, STEP);
    int64_t attended = padded(m->heads * m->head_size, STEP), row = padded(m->head_size, LANES);
    int64_t projected = padded((m->heads + 2 * m->key_heads) * m->head_size, LANES);
    int64_t sums = padded(greater(greater(hidden, inner), attended) / GROUP, LANES);
    int64_t queries = m->heads / m->key_heads;
    int64_t own = hidden + attended + sums + row + (queries + row) * CHUNK;
    int64_t all = hidden + projected + 2 * inner + d->threads * own;
    d->memory = aligned_alloc(64, (size_t)all * sizeof(float));
    d->scratch = calloc((size_t)d->threads, sizeof *d->scratch);
    d->helpers = calloc((size_t)d->threads, sizeof *d->helpers);
    if (!d->memory || !d->scratch || !d->helpers)
        return false;
    memset(d->memory, 0, (size_t)all * sizeof(float));
    float *at = d->memory;
    d->stream = take(&at, hidden), d->projected = take(&at, projected);
    d->gate = take(&at, inner), d->up = take(&at, inner);
    for (int i = 0; i < d->threads; i++) {
        Scratch *s = &d->scratch[i];
        s->vector = take(&at, hidden), s->attended = take(&at, attended), s->sums = take(&at, sums);
        s->query = take(&at, row), s->scores = take(&at, queries * CHUNK);
        s->rows = take(&at, CHUNK * row);
    }
    return true;
}

/* A decoder of the model, whose memory must outlive it; NULL without memory or threads. */
Decoder *open_decoder(const Model *model, int threads)
{
    Decoder *d = aligned_alloc(64, (size_t)padded(sizeof *d, 64));
    if (!d)
        return NULL;
    memset(d, 0, sizeof *d);
    d->model = *model, d->threads = threads;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->wake, NULL);
    open_phase(d, end_of(model));
    bool able = furnish(d);
    for (int i = 1; able && i < threads; i++) {
        Helper *helper = malloc(sizeof *helper);
        if (helper)
            *helper = (Helper){d, i};
        able = helper && !pthread_create(&d->helpers[i - 1], NULL, help, helper);
        d->started += able;
        if (!able)
            free(helper);
    }
    if (able)
        return d;
    close_decoder(d);
    return NULL;
}

/* Memory for at least so many floats in the place of what was there. */
static bool make_room(float **place, int64_t *room, int64_t wanted)
{
    if (wanted <= *room)
        return true;
    float *larger = realloc(*place, (size_t)(2 * wanted) * sizeof *larger);
    if (!larger)
        return false;
    *place = larger, *room = 2 * wanted;
    return true;
}

/* Takes up an adapter, which must outlive its use. */
static bool take_up(Decoder *d, const Addition *adapter)
{
    d->adapter = adapter, d->most_rank = 0;
    for (int64_t i = 0; adapter && i < d->model.layers * TARGETS; i++)
        d->most_rank = greater(d->most_rank, adapter[i].rank);
    int64_t own = MOST_AT_ONCE * d->most_rank;
    if (!make_room(&d->low, &d->low_room, d->threads * own))
        return false;
    for (int i = 0; i < d->threads; i++)
        d->scratch[i].low = d->low + i * own;
    return true;
}

/* Adds a token's keys and values to the cache at its length and writes the logits of what follows.

   `adapter` is NULL for none. `rotation` holds the cosines, then the sines, of the position's
   angles: head_size / 2 each. 0, or -1 without memory, when nothing was done. */
int decode(Decoder *d, const Cache *cache, const Addition *adapter, int64_t token,
           const float *rotation, float *logits)
{
    int64_t hidden = d->model.hidden, chunks = cache->length / CHUNK + 1;
    int64_t room = d->model.heads * chunks * (cache->row_stride + 2);
    if (!make_room(&d->partial, &d->partial_room, room) || !take_up(d, adapter))
        return -1;
    d->cache = *cache, d->chunks = chunks, d->token = token;
    d->rotation = rotation, d->logits = logits;
    for (int64_t i = 0; i < hidden; i++)
        d->stream[i] = to_float(d->model.embedding[token * hidden + i]);
    start(d, 0, false);
    work(d, &d->scratch[0]);
    return 0;
}
