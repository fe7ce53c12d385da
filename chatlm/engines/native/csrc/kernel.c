/* Decodes tokens of a Llama-type model, some at once; knows nothing of Python, files or text.

   The weights are read once a call, and how fast memory delivers them is how fast tokens come.
   A call is a row of phases, and a phase a number of pieces, such as some rows of a matrix. Each
   thread takes the next piece of the phase until there is none; whoever finishes the last one opens
   the next phase. So a thread that comes late or runs on a slow core holds no other up by more than
   its piece. No number depends on how many threads there are, or on what else is decoded at once. */

#include "attention.h"
#include "low_rank.h"
#include "model.h"
#include "rows.h"

#include <sched.h>

enum { PIECE_BYTES = 32 * 1024, PIECES_PER_THREAD = 8 };
enum { SPINS_BEFORE_SLEEP = 2000, SPINS_BEFORE_YIELD = 4000 };

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

/* Results of all tokens, so many floats apart. */
typedef struct {
    float *at;
    int64_t stride;
} Vectors;

/* y = matrix x + bias, or y += it, for some rows, whole bands, and `count` tokens. */
ALWAYS_INLINE void
multiply_rows(const Matrix *m, int64_t from, int64_t to, Input x, Vectors y, bool add,
              const int count)
{
    int64_t size = LANES * row_bytes(m->format, m->width);
    for (int64_t r = from; r < to; r += LANES) {
        const uint8_t *band = m->bands + r / LANES * size;
        lanes products[FEW];
        if (m->format == INT8)
            dot_int8(band, m->scales + r * m->width / STEP, x, count, products);
        else if (m->format == INT4)
            dot_int4(band, x, count, products);
        else
            dot_bf16(band, x, count, products);
        for (int i = 0; i < count; i++) {
            float *out = y.at + i * y.stride + r;
            lanes sum = m->bias ? products[i] + load(m->bias + r) : products[i];
            if (add)
                sum += load(out);
            if (r + LANES <= m->count)
                memcpy(out, &sum, sizeof sum);
            else
                memcpy(out, &sum, (size_t)(m->count - r) * sizeof *out);
        }
    }
}

/* The same for a piece of the rows and all tokens. */
static void multiply(const Decoder *d, const Matrix *m, int64_t piece, Input x, Vectors y, bool add)
{
    int64_t from = piece * piece_rows(d, m), to = lesser(from + piece_rows(d, m), m->count);
    for (int64_t left = d->entry_count, step; left; left -= step) {
        if (left >= 4)
            step = 4, multiply_rows(m, from, to, x, y, add, 4);
        else if (left >= 2)
            step = 2, multiply_rows(m, from, to, x, y, add, 2);
        else
            step = 1, multiply_rows(m, from, to, x, y, add, 1);
        x = from_vector(x, step), y.at += step * y.stride;
    }
}

/* What the adapters add to the same rows: of the phase's targets those from `target` on. */
static void adapt(const Decoder *d, const Matrix *m, int64_t piece, int64_t layer, int64_t target,
                  int64_t count, const float *low, Vectors y)
{
    int64_t from = piece * piece_rows(d, m), to = lesser(from + piece_rows(d, m), m->count);
    for (int64_t e = 0; e < d->entry_count; e++, y.at += y.stride) {
        const Addition *adapter = d->entries[e].sequence->adapter;
        if (!adapter)
            continue;
        adapter += layer * TARGETS + target;
        for (int64_t i = 0; i < count; i++)
            project_up(&adapter[i], low + (e * TARGETS_AT_ONCE + i) * d->most_rank, from, to, y.at);
    }
}

/* --- phases -------------------------------------------------------------------------------- */

enum { PROJECT, ATTEND, OUTPUT, MLP, DOWN, PHASES }; /* of each layer; then the head; then none */

/* Of each kind of phase, the first target of adapters and how many there are. */
static const int64_t FIRST_TARGET[PHASES] = {[PROJECT] = 0, [OUTPUT] = 3, [MLP] = 4, [DOWN] = 6};
static const int64_t TARGETS_OF[PHASES] = {[PROJECT] = 3, [OUTPUT] = 1, [MLP] = 2, [DOWN] = 1};

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

/* What the adapters' lower halves give in a phase, from its input. */
static void lower(const Decoder *d, int64_t phase, Input input, float *low)
{
    int64_t kind = phase % PHASES;
    for (int64_t e = 0; e < d->entry_count; e++) {
        const Addition *adapter = d->entries[e].sequence->adapter;
        if (!adapter || phase == head_of(&d->model))
            continue;
        adapter += phase / PHASES * TARGETS + FIRST_TARGET[kind];
        for (int64_t i = 0; i < TARGETS_OF[kind]; i++)
            project_down(&adapter[i], input.numbers + e * input.width,
                         low + (e * TARGETS_AT_ONCE + i) * d->most_rank);
    }
}

/* Makes what a thread needs for itself before its first piece of a phase. */
static void prepare_phase(const Decoder *d, int64_t phase, Scratch *s)
{
    const Model *m = &d->model;
    const Matrix *matrix = matrix_of(m, phase);
    bool head = phase == head_of(m);
    const Layer *layer = head ? NULL : &m->layer[phase / PHASES];
    int64_t kind = head ? PROJECT : phase % PHASES;
    if (!matrix || (s->job == atomic_load(&d->job) && s->phase == phase))
        return;
    s->job = atomic_load(&d->job), s->phase = phase;
    float *numbers = kind == OUTPUT ? s->attended : kind == DOWN ? d->gate : s->vector;
    const float *norm = head ? m->norm : kind == MLP ? layer->mlp_norm : layer->attention_norm;
    s->input.numbers = numbers, s->input.width = matrix->width;
    for (int64_t e = 0; e < d->entry_count; e++, numbers += matrix->width) {
        if (kind == OUTPUT)
            gather(d, &d->entries[e], numbers);
        else if (kind != DOWN)
            normalize(d->stream + e * d->hidden, norm, m->hidden, m->epsilon, numbers);
        if (matrix->format != BF16)
            complete(from_vector(s->input, e));
    }
    if (d->most_rank)
        lower(d, phase, s->input, s->low);
}

static void mlp(const Decoder *d, int64_t index, int64_t piece, const Scratch *s)
{
    const Layer *layer = &d->model.layer[index];
    int64_t rows = piece_rows(d, &layer->gate), from = piece * rows;
    int64_t to = lesser(from + rows, d->model.inner);
    Vectors gate = {d->gate, d->inner}, up = {d->up, d->inner};
    multiply(d, &layer->gate, piece, s->input, gate, false);
    multiply(d, &layer->up, piece, s->input, up, false);
    if (d->most_rank) {
        int64_t target = FIRST_TARGET[MLP];
        adapt(d, &layer->gate, piece, index, target, 1, s->low, gate);
        adapt(d, &layer->up, piece, index, target + 1, 1, s->low + d->most_rank, up);
    }
    for (int64_t e = 0; e < d->entry_count; e++, gate.at += gate.stride, up.at += up.stride)
        for (int64_t i = from; i < to; i++)
            gate.at[i] = gate.at[i] / (1.0f + exponential(-gate.at[i])) * up.at[i];
}

static void do_piece(const Decoder *d, int64_t phase, int64_t piece, Scratch *s)
{
    const Model *m = &d->model;
    const Matrix *matrix = matrix_of(m, phase);
    int64_t index = phase / PHASES, kind = phase % PHASES;
    prepare_phase(d, phase, s);
    if (phase == head_of(m)) {
        multiply(d, matrix, piece, s->input, (Vectors){d->logits, m->head.count}, false);
    } else if (kind == ATTEND) {
        attend(d, index, piece, s);
    } else if (kind == MLP) {
        mlp(d, index, piece, s);
    } else {
        Vectors y = {d->stream, d->hidden};
        if (kind == PROJECT)
            y = (Vectors){d->projections, d->projected};
        multiply(d, matrix, piece, s->input, y, kind != PROJECT);
        if (d->most_rank)
            adapt(d, matrix, piece, index, FIRST_TARGET[kind], TARGETS_OF[kind], s->low, y);
    }
}

/* Pieces of the attention to all caches. */
static int64_t attention_pieces(const Decoder *d)
{
    int64_t pieces = 0;
    for (int64_t e = 0; e < d->entry_count; e += d->entries[e].sequence->count)
        pieces += d->model.key_heads * d->entries[e].chunks;
    return pieces;
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
                     : phase < head_of(m) ? attention_pieces(d)
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

/* Takes pieces until the call is done. */
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
    int64_t row = padded(m->head_size, LANES), queries = m->heads / m->key_heads;
    d->hidden = padded(m->hidden, STEP), d->inner = padded(m->inner, STEP);
    d->attended = padded(m->heads * m->head_size, STEP);
    d->projected = padded((m->heads + 2 * m->key_heads) * m->head_size, LANES);
    int64_t widest = greater(greater(d->hidden, d->attended), d->inner);
    int64_t bytes = MOST * widest / (int64_t)sizeof(float);
    int64_t steps = MOST * widest / STEP, sums = MOST * widest / GROUP;
    int64_t own = MOST * (d->hidden + d->attended) + queries * row + FEW * CHUNK;
    own += 2 * bytes + steps + sums;
    int64_t all = MOST * (d->hidden + d->projected + 2 * d->inner) + d->threads * own;
    d->memory = aligned_alloc(64, (size_t)all * sizeof(float));
    d->scratch = calloc((size_t)d->threads, sizeof *d->scratch);
    d->helpers = calloc((size_t)d->threads, sizeof *d->helpers);
    if (!d->memory || !d->scratch || !d->helpers)
        return false;
    memset(d->memory, 0, (size_t)all * sizeof(float));
    float *at = d->memory;
    d->stream = take(&at, MOST * d->hidden), d->projections = take(&at, MOST * d->projected);
    d->gate = take(&at, MOST * d->inner), d->up = take(&at, MOST * d->inner);
    for (int i = 0; i < d->threads; i++) {
        Scratch *s = &d->scratch[i];
        s->vector = take(&at, MOST * d->hidden), s->attended = take(&at, MOST * d->attended);
        s->query = take(&at, queries * row), s->scores = take(&at, FEW * CHUNK);
        s->input.high = (int8_t *)take(&at, bytes), s->input.low = (int8_t *)take(&at, bytes);
        s->input.steps = take(&at, steps), s->input.sums = take(&at, sums);
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

/* Takes up the tokens of all sequences, whose positions' angles are in `turns`. */
static bool take_up(Decoder *d, const Sequence *sequences, int64_t count, const float *turns)
{
    const Model *m = &d->model;
    int64_t room = 0, size = sequences->row_stride + 2;
    d->entry_count = d->most_rank = 0;
    for (const Sequence *s = sequences; s < sequences + count; s++) {
        int64_t chunks = (s->length + s->count - 1) / CHUNK + 1;
        for (int64_t i = 0; i < s->count; i++, room += m->heads * chunks * size) {
            const float *rotation = turns + (s->length + i) * m->head_size;
            Entry *entry = &d->entries[d->entry_count++];
            *entry = (Entry){s, s->length + i, rotation, NULL, chunks};
        }
        for (int64_t i = 0; s->adapter && i < m->layers * TARGETS; i++)
            d->most_rank = greater(d->most_rank, s->adapter[i].rank);
    }
    int64_t low = MOST * TARGETS_AT_ONCE * d->most_rank;
    if (!make_room(&d->partial, &d->partial_room, room)
        || !make_room(&d->low, &d->low_room, d->threads * low))
        return false;
    for (int i = 0; i < d->threads; i++)
        d->scratch[i].low = d->low + i * low;
    float *at = d->partial;
    for (Entry *e = d->entries; e < d->entries + d->entry_count; e++) {
        e->partial = at;
        at += m->heads * e->chunks * size;
    }
    return true;
}

int64_t most_at_once(void) { return MOST; }

/* Adds tokens, MOST at most, to the caches of their sequences, and writes the logits after each:
   (tokens, vocabulary). What is written is what one token a call would give, to the last bit.

   `turns` holds the cosines, then the sines, of each position's angles: head_size / 2 each.
   0, or -1 without memory, when nothing was done. */
int decode(Decoder *d, const Sequence *sequences, int64_t count, const int64_t *tokens,
           const float *turns, float *logits)
{
    if (!take_up(d, sequences, count, turns))
        return -1;
    d->logits = logits;
    for (int64_t e = 0; e < d->entry_count; e++) {
        const number *embedding = d->model.embedding + tokens[e] * d->model.hidden;
        for (int64_t i = 0; i < d->model.hidden; i++)
            d->stream[e * d->hidden + i] = to_float(embedding[i]);
    }
    start(d, 0, false);
    work(d, &d->scratch[0]);
    return 0;
}
