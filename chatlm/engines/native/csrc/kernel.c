/* Decodes up to MAX_STEP_TOKENS tokens per call with a Llama-like transformer, and multiplies its
   matrices with whole blocks of a prompt.

   Each call reads the weights once, and memory bandwidth limits the speed. A call runs through
   phases, and a phase consists of tasks, such as some rows of a matrix. Every thread takes the next
   task until none is left; the thread that finishes the last one starts the next phase. A thread
   that wakes late or runs on a slow core thus delays the others by one task at most. Results do not
   depend on the number of threads or on which other tokens are in the call. */

#include "attention.h"
#include "lora.h"
#include "model.h"

#include <sched.h>

enum { TASK_BYTES = 32 * 1024, TASKS_PER_THREAD = 8 };
enum { SPINS_BEFORE_SLEEP = 2000, SPINS_BEFORE_YIELD = 4000 };

/* --- matrix products ----------------------------------------------------------------------- */

/* Rows per task: few enough to balance the load, and whole cache lines of results. */
static int64_t rows_per_task(const Decoder *d, const PackedMatrix *m)
{
    int64_t rows = LANES * TASK_BYTES / panel_bytes(m->format, m->width);
    return round_up(max_i64(max_i64(rows, m->rows / (d->num_threads * TASKS_PER_THREAD)), 1),
                    LANES);
}

static int64_t matrix_tasks(const Decoder *d, const PackedMatrix *m)
{
    return (m->rows + rows_per_task(d, m) - 1) / rows_per_task(d, m);
}

/* One output vector per token, `stride` floats apart. */
typedef struct {
    float *data;
    int64_t stride;
} OutputVectors;

/* y (+)= matrix x + bias, for the panels of rows [from, to) and `count` tokens. */
ALWAYS_INLINE void matmul_rows(const PackedMatrix *m, int64_t from, int64_t to, Activations x,
                               OutputVectors y, bool accumulate, const int count)
{
    for (int64_t r = from; r < to; r += LANES) {
        f32x16 products[MAX_VECTORS] = {0};
        dot_panel(m->format, m->panels + r / LANES * panel_bytes(m->format, m->width), x, count,
                  products);
        for (int i = 0; i < count; i++) {
            float *out = y.data + i * y.stride + r;
            f32x16 product = m->bias ? products[i] + load_f32x16(m->bias + r) : products[i];
            if (accumulate)
                product += load_f32x16(out);
            if (r + LANES <= m->rows)
                memcpy(out, &product, sizeof product);
            else
                memcpy(out, &product, (size_t)(m->rows - r) * sizeof *out);
        }
    }
}

/* The same for the rows of one task and all tokens. */
static void matmul(const Decoder *d, const PackedMatrix *m, int64_t task, Activations x,
                   OutputVectors y, bool accumulate)
{
    int64_t from = task * rows_per_task(d, m), to = min_i64(from + rows_per_task(d, m), m->rows);
    for (int64_t left = d->token_count, vectors; left; left -= vectors) {
        if (left >= 4)
            vectors = 4, matmul_rows(m, from, to, x, y, accumulate, 4);
        else if (left >= 2)
            vectors = 2, matmul_rows(m, from, to, x, y, accumulate, 2);
        else
            vectors = 1, matmul_rows(m, from, to, x, y, accumulate, 1);
        x = activations_from(x, vectors), y.data += vectors * y.stride;
    }
}

/* Add each sequence's LoRA to the same rows; `target` is the matrix among those of the phase. */
static void add_lora(const Decoder *d, const PackedMatrix *m, int64_t task, int64_t layer,
                     int64_t first_target, int64_t target, const float *hidden, OutputVectors y)
{
    int64_t from = task * rows_per_task(d, m), to = min_i64(from + rows_per_task(d, m), m->rows);
    for (int64_t t = 0; t < d->token_count; t++, y.data += y.stride) {
        const LoraPair *pairs = d->tokens[t].sequence->lora;
        if (pairs)
            lora_up(&pairs[layer * LORA_TARGETS + first_target + target],
                    hidden + (t * MAX_PHASE_MATRICES + target) * d->max_lora_rank, from, to,
                    y.data);
    }
}

/* --- phases -------------------------------------------------------------------------------- */

/* After the last layer come the phase of lm_head and one that ends the call. A call that multiplies
   a prompt has only one phase before the end. */
enum { QKV_PROJ, ATTENTION, O_PROJ, GATE_UP_PROJ, DOWN_PROJ, PHASES_PER_LAYER };

/* LoRA targets of each kind of phase. */
static const int64_t FIRST_LORA_TARGET[PHASES_PER_LAYER] = {
    [QKV_PROJ] = 0, [O_PROJ] = 3, [GATE_UP_PROJ] = 4, [DOWN_PROJ] = 6};
static const int64_t LORA_TARGET_COUNT[PHASES_PER_LAYER] = {
    [QKV_PROJ] = 3, [O_PROJ] = 1, [GATE_UP_PROJ] = 2, [DOWN_PROJ] = 1};

static int64_t lm_head_phase(const Model *m) { return m->num_hidden_layers * PHASES_PER_LAYER; }
static int64_t end_phase(const Model *m) { return lm_head_phase(m) + 1; }
static int64_t prompt_phase(const Model *m) { return lm_head_phase(m) + 2; }

/* The matrices whose rows are divided into the phase's tasks; none for attention. The tasks of
   gate_proj do those of up_proj too. */
static const PackedMatrix *phase_matrices(const Model *m, int64_t phase, int64_t *count)
{
    *count = 1;
    if (phase == lm_head_phase(m))
        return &m->lm_head;
    const Layer *layer = &m->layers[phase / PHASES_PER_LAYER];
    switch (phase % PHASES_PER_LAYER) {
    case QKV_PROJ: *count = 3; return &layer->q_proj;
    case O_PROJ: return &layer->o_proj;
    case GATE_UP_PROJ: return &layer->gate_proj;
    case DOWN_PROJ: return &layer->down_proj;
    default: *count = 0; return NULL;
    }
}

/* hidden = scale * A x of each sequence's LoRA pairs in the phase. */
static void lora_down_phase(const Decoder *d, int64_t phase, Activations input, float *hidden)
{
    int64_t kind = phase % PHASES_PER_LAYER;
    for (int64_t t = 0; t < d->token_count; t++) {
        const LoraPair *pairs = d->tokens[t].sequence->lora;
        if (!pairs || phase == lm_head_phase(&d->model))
            continue;
        pairs += phase / PHASES_PER_LAYER * LORA_TARGETS + FIRST_LORA_TARGET[kind];
        for (int64_t i = 0; i < LORA_TARGET_COUNT[kind]; i++)
            lora_down(&pairs[i], input.values + t * input.stride,
                      hidden + (t * MAX_PHASE_MATRICES + i) * d->max_lora_rank);
    }
}

/* Compute the input of a phase. Each thread does so before its first task: sharing it costs more.
 */
static void prepare_phase(const Decoder *d, int64_t phase, ThreadScratch *s)
{
    const Model *m = &d->model;
    int64_t count;
    const PackedMatrix *matrix = phase_matrices(m, phase, &count);
    bool is_lm_head = phase == lm_head_phase(m);
    const Layer *layer = is_lm_head ? NULL : &m->layers[phase / PHASES_PER_LAYER];
    int64_t kind = is_lm_head ? QKV_PROJ : phase % PHASES_PER_LAYER;
    if (!matrix || (s->call == atomic_load(&d->call) && s->phase == phase))
        return;
    s->call = atomic_load(&d->call), s->phase = phase;
    float *values = kind == O_PROJ ? s->attention : kind == DOWN_PROJ ? d->gate_out : s->normed;
    const float *norm = is_lm_head             ? m->norm
                        : kind == GATE_UP_PROJ ? layer->post_attention_layernorm
                                               : layer->input_layernorm;
    bool any_quantized = kind == GATE_UP_PROJ && is_quantized(layer->up_proj.format);
    for (int64_t i = 0; i < count; i++)
        any_quantized |= is_quantized(matrix[i].format);
    s->input.values = values, s->input.stride = matrix->width;
    for (int64_t t = 0; t < d->token_count; t++, values += matrix->width) {
        if (kind == O_PROJ)
            merge_chunks(d, &d->tokens[t], values);
        else if (kind != DOWN_PROJ)
            rms_norm(d->residual + t * d->hidden_stride, norm, m->hidden_size, m->rms_norm_eps,
                     values);
        if (any_quantized)
            quantize_activations(activations_from(s->input, t));
    }
    if (d->max_lora_rank)
        lora_down_phase(d, phase, s->input, s->lora_hidden);
}

static void gate_up_silu(const Decoder *d, int64_t layer_index, int64_t task,
                         const ThreadScratch *s)
{
    const Layer *layer = &d->model.layers[layer_index];
    int64_t rows = rows_per_task(d, &layer->gate_proj), from = task * rows;
    int64_t to = min_i64(from + rows, d->model.intermediate_size);
    OutputVectors gate = {d->gate_out, d->intermediate_stride},
                  up = {d->up_out, d->intermediate_stride};
    matmul(d, &layer->gate_proj, task, s->input, gate, false);
    matmul(d, &layer->up_proj, task, s->input, up, false);
    if (d->max_lora_rank) {
        int64_t target = FIRST_LORA_TARGET[GATE_UP_PROJ];
        add_lora(d, &layer->gate_proj, task, layer_index, target, 0, s->lora_hidden, gate);
        add_lora(d, &layer->up_proj, task, layer_index, target, 1, s->lora_hidden, up);
    }
    for (int64_t t = 0; t < d->token_count; t++, gate.data += gate.stride, up.data += up.stride)
        for (int64_t i = from; i < to; i++)
            gate.data[i] = gate.data[i] / (1.0f + expf_approx(-gate.data[i])) * up.data[i];
}

static void run_task(const Decoder *d, int64_t phase, int64_t task, ThreadScratch *s)
{
    const Model *m = &d->model;
    if (phase == prompt_phase(m)) {
        const PackedMatrix *matrix = d->prompt_matrix;
        multiply_prompt(matrix->panels, matrix->format, matrix->width, matrix->rows, matrix->bias,
                        &d->prompt, task, d->use_amx, s->prompt_buffer, s->prompt_results);
        return;
    }
    int64_t count, target = 0, index = phase / PHASES_PER_LAYER, kind = phase % PHASES_PER_LAYER;
    const PackedMatrix *matrix = phase_matrices(m, phase, &count);
    prepare_phase(d, phase, s);
    if (phase == lm_head_phase(m)) {
        matmul(d, matrix, task, s->input, (OutputVectors){d->logits, m->lm_head.rows}, false);
    } else if (kind == ATTENTION) {
        gqa_attention(d, index, task, s);
    } else if (kind == GATE_UP_PROJ) {
        gate_up_silu(d, index, task, s);
    } else {
        OutputVectors y = {d->residual, d->hidden_stride};
        if (kind == QKV_PROJ)
            y = (OutputVectors){d->qkv, d->qkv_stride};
        for (; task >= matrix_tasks(d, matrix); matrix++, target++)
            task -= matrix_tasks(d, matrix), y.data += matrix->rows;
        matmul(d, matrix, task, s->input, y, kind != QKV_PROJ);
        if (d->max_lora_rank)
            add_lora(d, matrix, task, index, FIRST_LORA_TARGET[kind], target, s->lora_hidden, y);
    }
}

/* One task per KV head and chunk of each sequence. */
static int64_t attention_tasks(const Decoder *d)
{
    int64_t tasks = 0;
    for (int64_t t = 0; t < d->token_count; t += d->tokens[t].sequence->token_count)
        tasks += d->model.num_key_value_heads * d->tokens[t].kv_chunks;
    return tasks;
}

/* --- threads ------------------------------------------------------------------------------- */

/* One word holds phase, task count and next task, so that one atomic operation takes a task. */
static unsigned long long make_ticket(int64_t phase, int64_t tasks)
{
    return (unsigned long long)phase << 48 | (unsigned long long)tasks << 24;
}
static int64_t ticket_phase(unsigned long long ticket) { return (int64_t)(ticket >> 48); }
static int64_t ticket_tasks(unsigned long long ticket) { return ticket >> 24 & 0xffffff; }
static int64_t ticket_next_task(unsigned long long ticket) { return ticket & 0xffffff; }

static int64_t phase_tasks(const Decoder *d, int64_t phase)
{
    const Model *m = &d->model;
    int64_t count, tasks = 0;
    if (phase == end_phase(m))
        return 0;
    if (phase == prompt_phase(m))
        return prompt_tasks(d->prompt_matrix->rows);
    const PackedMatrix *matrix = phase_matrices(m, phase, &count);
    for (int64_t i = 0; i < count; i++)
        tasks += matrix_tasks(d, &matrix[i]);
    return count ? tasks : attention_tasks(d);
}

static void begin_phase(Decoder *d, int64_t phase)
{
    int64_t tasks = phase_tasks(d, phase);
    atomic_store(&d->finished_tasks, 0);
    atomic_store(&d->ticket, make_ticket(phase, tasks));
}

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

/* Run tasks until the call is done. */
static void run_tasks(Decoder *d, ThreadScratch *s)
{
    for (int spins = 0;;) {
        unsigned long long ticket = atomic_load(&d->ticket);
        if (ticket_phase(ticket) == end_phase(&d->model))
            return;
        if (ticket_next_task(ticket) >= ticket_tasks(ticket)) {
            spin_wait(&spins);
            continue;
        }
        ticket = atomic_fetch_add(&d->ticket, 1);
        if (ticket_next_task(ticket) >= ticket_tasks(ticket))
            continue;
        spins = 0;
        run_task(d, ticket_phase(ticket), ticket_next_task(ticket), s);
        if (atomic_fetch_add(&d->finished_tasks, 1) + 1 == ticket_tasks(ticket))
            begin_phase(d, min_i64(ticket_phase(ticket) + 1, end_phase(&d->model)));
    }
}

typedef struct {
    Decoder *decoder;
    int thread;
} Worker;

static void *worker_main(void *argument)
{
    Worker worker = *(Worker *)argument;
    Decoder *d = worker.decoder;
    free(argument);
    for (unsigned done = 0;;) {
        for (int spins = 0; spins < SPINS_BEFORE_SLEEP && atomic_load(&d->call) == done;)
            spin_wait(&spins);
        pthread_mutex_lock(&d->lock);
        while (atomic_load(&d->call) == done)
            pthread_cond_wait(&d->wake, &d->lock);
        done = atomic_load(&d->call);
        bool closing = d->closing;
        pthread_mutex_unlock(&d->lock);
        if (closing)
            return NULL;
        run_tasks(d, &d->scratch[worker.thread]);
    }
}

/* Start a phase and wake the worker threads. */
static void wake_workers(Decoder *d, int64_t phase, bool closing)
{
    pthread_mutex_lock(&d->lock);
    d->closing = closing;
    atomic_fetch_add(&d->call, 1); /* before a worker that is still awake takes a task */
    begin_phase(d, phase);
    pthread_cond_broadcast(&d->wake);
    pthread_mutex_unlock(&d->lock);
}

/* --- public functions ---------------------------------------------------------------------- */

/* Free a decoder; no other call may be running. */
void close_decoder(Decoder *d)
{
    wake_workers(d, end_phase(&d->model), true);
    for (int i = 0; i < d->num_workers; i++)
        pthread_join(d->workers[i], NULL);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->wake);
    free(d->arena), free(d->partial_attention), free(d->lora_hidden), free(d->prompt_x);
    free(d->scratch), free(d->workers), free(d);
}

static float *arena_alloc(float **arena, int64_t count)
{
    float *block = *arena;
    *arena += round_up(count, LANES);
    return block;
}

/* Allocate the shared buffers and those of each thread, zero-initialized. */
static bool allocate_buffers(Decoder *d)
{
    const Model *m = &d->model;
    int64_t stride = round_up(m->head_dim, KV_GROUP);
    int64_t queries_per_kv_head = m->num_attention_heads / m->num_key_value_heads;
    d->hidden_stride = round_up(m->hidden_size, ACTIVATION_GROUP);
    d->intermediate_stride = round_up(m->intermediate_size, ACTIVATION_GROUP);
    d->attention_stride = round_up(m->num_attention_heads * m->head_dim, ACTIVATION_GROUP);
    d->qkv_stride =
        round_up((m->num_attention_heads + 2 * m->num_key_value_heads) * m->head_dim, LANES);
    int64_t widest =
        max_i64(max_i64(d->hidden_stride, d->attention_stride), d->intermediate_stride);
    int64_t quantized = MAX_STEP_TOKENS * widest / (int64_t)sizeof(float);
    int64_t scales = MAX_STEP_TOKENS * widest / ACTIVATION_GROUP;
    int64_t sums = MAX_STEP_TOKENS * widest / LANES;
    int64_t prompt_buffer = PROMPT_BUFFER_SIZE * (int64_t)sizeof(buffer_t) / (int64_t)sizeof(float);
    int64_t per_thread = MAX_STEP_TOKENS * (d->hidden_stride + d->attention_stride)
                         + queries_per_kv_head * stride + MAX_VECTORS * KV_CHUNK
                         + 2 * KV_CHUNK * stride / KV_GROUP;
    per_thread += 2 * quantized + scales + sums + prompt_buffer + PROMPT_RESULTS_SIZE + 6 * LANES;
    int64_t total =
        MAX_STEP_TOKENS * (d->hidden_stride + d->qkv_stride + 2 * d->intermediate_stride)
        + d->num_threads * per_thread;
    d->arena = aligned_alloc(64, (size_t)total * sizeof(float));
    d->scratch = calloc((size_t)d->num_threads, sizeof *d->scratch);
    d->workers = calloc((size_t)d->num_threads, sizeof *d->workers);
    if (!d->arena || !d->scratch || !d->workers)
        return false;
    memset(d->arena, 0, (size_t)total * sizeof(float));
    float *next = d->arena;
    d->residual = arena_alloc(&next, MAX_STEP_TOKENS * d->hidden_stride);
    d->qkv = arena_alloc(&next, MAX_STEP_TOKENS * d->qkv_stride);
    d->gate_out = arena_alloc(&next, MAX_STEP_TOKENS * d->intermediate_stride);
    d->up_out = arena_alloc(&next, MAX_STEP_TOKENS * d->intermediate_stride);
    for (int i = 0; i < d->num_threads; i++) {
        ThreadScratch *s = &d->scratch[i];
        s->normed = arena_alloc(&next, MAX_STEP_TOKENS * d->hidden_stride);
        s->attention = arena_alloc(&next, MAX_STEP_TOKENS * d->attention_stride);
        s->query = arena_alloc(&next, queries_per_kv_head * stride);
        s->attention_scores = arena_alloc(&next, MAX_VECTORS * KV_CHUNK);
        s->kv_scales = arena_alloc(&next, 2 * KV_CHUNK * stride / KV_GROUP);
        s->input.q_high = (int8_t *)arena_alloc(&next, quantized);
        s->input.q_low = (int8_t *)arena_alloc(&next, quantized);
        s->input.scales = arena_alloc(&next, scales);
        s->input.group_sums = arena_alloc(&next, sums);
        s->prompt_buffer = (buffer_t *)arena_alloc(&next, prompt_buffer);
        s->prompt_results = arena_alloc(&next, PROMPT_RESULTS_SIZE);
    }
    return true;
}

/* Open a decoder for a model whose memory outlives it; NULL when out of memory or threads. */
Decoder *open_decoder(const Model *model, int threads)
{
    Decoder *d = aligned_alloc(64, (size_t)round_up(sizeof *d, 64));
    if (!d)
        return NULL;
    memset(d, 0, sizeof *d);
    d->model = *model, d->num_threads = threads, d->use_amx = may_use_amx();
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->wake, NULL);
    begin_phase(d, end_phase(model));
    bool ok = allocate_buffers(d);
    for (int i = 1; ok && i < threads; i++) {
        Worker *worker = malloc(sizeof *worker);
        if (worker)
            *worker = (Worker){d, i};
        ok = worker && !pthread_create(&d->workers[i - 1], NULL, worker_main, worker);
        d->num_workers += ok;
        if (!ok)
            free(worker);
    }
    if (ok)
        return d;
    close_decoder(d);
    return NULL;
}

/* Make a buffer hold at least `size` floats. */
static bool grow_buffer(float **buffer, int64_t *capacity, int64_t size)
{
    if (size <= *capacity)
        return true;
    float *larger = realloc(*buffer, (size_t)(2 * size) * sizeof *larger);
    if (!larger)
        return false;
    *buffer = larger, *capacity = 2 * size;
    return true;
}

/* Set up the TokenState of each token and the buffers that depend on their number. */
static bool prepare_tokens(Decoder *d, const SequenceInput *sequences, int64_t count,
                           const float *rope)
{
    const Model *m = &d->model;
    int64_t partial_size = 0, head_partial = sequences->token_stride + 2;
    d->token_count = d->max_lora_rank = 0;
    for (const SequenceInput *s = sequences; s < sequences + count; s++) {
        int64_t chunks = (s->length + s->token_count - 1) / KV_CHUNK + 1;
        for (int64_t i = 0; i < s->token_count;
             i++, partial_size += m->num_attention_heads * chunks * head_partial) {
            const float *angles = rope + (s->length + i) * m->head_dim;
            TokenState *token = &d->tokens[d->token_count++];
            *token = (TokenState){s, s->length + i, angles, NULL, chunks};
        }
        for (int64_t i = 0; s->lora && i < m->num_hidden_layers * LORA_TARGETS; i++)
            d->max_lora_rank = max_i64(d->max_lora_rank, s->lora[i].rank);
    }
    int64_t lora_size = MAX_STEP_TOKENS * MAX_PHASE_MATRICES * d->max_lora_rank;
    if (!grow_buffer(&d->partial_attention, &d->partial_attention_capacity, partial_size)
        || !grow_buffer(&d->lora_hidden, &d->lora_hidden_capacity, d->num_threads * lora_size))
        return false;
    for (int i = 0; i < d->num_threads; i++)
        d->scratch[i].lora_hidden = d->lora_hidden + i * lora_size;
    float *next = d->partial_attention;
    for (TokenState *token = d->tokens; token < d->tokens + d->token_count; token++) {
        token->partial_attention = next;
        next += m->num_attention_heads * token->kv_chunks * head_partial;
    }
    return true;
}

int64_t max_step_tokens(void) { return MAX_STEP_TOKENS; }

/* Add at most MAX_STEP_TOKENS tokens to the KV caches of their sequences, and write the logits
   after each: (tokens, vocab_size). They are bit for bit those of one token per call.

   `rope` is (positions, head_dim): head_dim / 2 cosines, then as many sines. Returns 0, or -1 when
   out of memory, with nothing changed. */
int decode(Decoder *d, const SequenceInput *sequences, int64_t count, const int64_t *tokens,
           const float *rope, float *logits)
{
    if (!prepare_tokens(d, sequences, count, rope))
        return -1;
    d->logits = logits;
    for (int64_t t = 0; t < d->token_count; t++) {
        const StoredMatrix *embed_tokens = &d->model.embed_tokens;
        read_rows(embed_tokens->data, embed_tokens->type, embed_tokens->row_bytes,
                  embed_tokens->columns, &tokens[t], 1, d->residual + t * d->hidden_stride);
    }
    wake_workers(d, 0, false);
    run_tasks(d, &d->scratch[0]);
    return 0;
}

/* Multiply a matrix with `count` vectors, (count, columns), at once; the results, (count, rows), are
   written to `y`, or to `y_float` if `y` is NULL. Returns 0, or -1 when out of memory. */
int multiply_matrix(Decoder *d, const PackedMatrix *m, const element_t *x, int64_t columns,
                    int64_t count, element_t *y, float *y_float)
{
    int64_t size = round_up(count, VECTOR_BLOCK) * m->width;
    if (size > d->prompt_x_capacity) {
        free(d->prompt_x);
        d->prompt_x_capacity = 0;
        d->prompt_x = aligned_alloc(64, (size_t)size * sizeof *d->prompt_x);
        if (!d->prompt_x)
            return -1;
        d->prompt_x_capacity = size;
    }
    memset(d->prompt_x, 0, (size_t)size * sizeof *x);
    for (int64_t v = 0; v < count; v++)
        for (int64_t i = 0; i < columns; i += TILE_COLUMNS)
            memcpy(d->prompt_x + v / TILE_VECTORS * TILE_VECTORS * m->width + i * TILE_VECTORS
                       + v % TILE_VECTORS * TILE_COLUMNS,
                   x + v * columns + i,
                   (size_t)min_i64(TILE_COLUMNS, columns - i) * sizeof *x);
    d->prompt_matrix = m;
    d->prompt = (PromptBlock){d->prompt_x, y, y_float, count};
    wake_workers(d, prompt_phase(&d->model), false);
    run_tasks(d, &d->scratch[0]);
    return 0;
}
