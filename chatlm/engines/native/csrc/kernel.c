/* Decodes up to MAX_STEP_TOKENS tokens per call with a decoder-only transformer, and multiplies its
   matrices with whole blocks of a prompt.

   Each call reads the weights once, and memory bandwidth limits the speed. A call runs through the
   model's steps, which are its phases, and a phase consists of tasks, such as some rows of a matrix.
   Every thread takes the next task until none is left; the thread that finishes the last one starts
   the next phase. A thread that wakes late or runs on a slow core thus delays the others by one task
   at most. Results do not depend on the number of threads or on which other tokens are in the call.
   */

#include "attention.h"
#include "experts_step.h"
#include "lora.h"
#include "matmul_step.h"
#include "model.h"
#include "prompt_attention.h"
#include "prompt_experts.h"
#include "recurrent_steps.h"

enum { SPINS_BEFORE_SLEEP = 2000 };

/* --- phases -------------------------------------------------------------------------------- */

/* After the steps comes a phase that ends the call. Those of prompts, which follow it, are run after
   each other by themselves. */
enum {
    PROMPT_VECTORS,
    PROMPT_PRODUCTS,
    PROMPT_STORE,
    PROMPT_ATTENTION,
    PROMPT_EXPERTS_INPUT,
    PROMPT_EXPERTS_GATE_UP,
    PROMPT_EXPERTS_INNER,
    PROMPT_EXPERTS_DOWN
};

static int64_t lm_head_phase(const Model *m) { return m->step_count - 1; }
static int64_t end_phase(const Model *m) { return m->step_count; }
static int64_t prompt_phase(const Model *m, int64_t kind) { return m->step_count + 1 + kind; }

/* The phase that follows; a prompt's last is followed by the end. */
static int64_t next_phase(const Model *m, int64_t phase)
{
    bool is_last = phase == prompt_phase(m, PROMPT_PRODUCTS)
                   || phase == prompt_phase(m, PROMPT_ATTENTION)
                   || phase == prompt_phase(m, PROMPT_EXPERTS_DOWN);
    return is_last ? end_phase(m) : phase + 1;
}

/* The matrix that a task belongs to; `task` becomes the number of the task within it. */
static int64_t find_prompt_matrix(const Decoder *d, int64_t *task)
{
    int64_t index = 0;
    for (int64_t tasks; tasks = prompt_tasks(d->prompt.matrices[index].rows, d->num_threads),
                        *task >= tasks; index++)
        *task -= tasks;
    return index;
}

static int64_t prompt_products_tasks(const Decoder *d)
{
    int64_t tasks = 0;
    for (int64_t i = 0; i < d->prompt.count; i++)
        tasks += prompt_tasks(d->prompt.matrices[i].rows, d->num_threads);
    return tasks;
}

static int64_t prompt_phase_tasks(const Decoder *d, int64_t kind)
{
    switch (kind) {
    case PROMPT_VECTORS: return prompt_vectors_tasks(&d->prompt.x);
    case PROMPT_PRODUCTS: return prompt_products_tasks(d);
    case PROMPT_STORE: return prompt_store_tasks(d->prompt_attention);
    case PROMPT_ATTENTION: return prompt_attention_tasks(d->prompt_attention, d->num_threads);
    case PROMPT_EXPERTS_GATE_UP: return prompt_experts_gate_up_tasks(d->experts_prompt);
    case PROMPT_EXPERTS_DOWN: return prompt_experts_down_tasks(d->experts_prompt);
    default: return prompt_experts_convert_tasks(d->experts_prompt);
    }
}

static void run_prompt_product(const Decoder *d, int64_t task, const ThreadScratch *s)
{
    int64_t index = find_prompt_matrix(d, &task);
    const PackedMatrix *m = &d->prompt.matrices[index];
    multiply_prompt(m->panels, m->format, m->rows, m->bias, &d->prompt.x, task, d->num_threads,
                    s->prompt, d->prompt.y[index]);
}

static void run_prompt_task(const Decoder *d, int64_t kind, int64_t task, const ThreadScratch *s)
{
    const ExpertsPrompt *experts = d->experts_prompt;
    switch (kind) {
    case PROMPT_VECTORS: convert_prompt_vectors(&d->prompt.x, task); break;
    case PROMPT_PRODUCTS: run_prompt_product(d, task, s); break;
    case PROMPT_STORE: store_prompt_kv(d, d->prompt_attention, task, s->query); break;
    case PROMPT_ATTENTION:
        attend_prompt_rows(d, d->prompt_attention, task, s->query, s->attention);
        break;
    case PROMPT_EXPERTS_INPUT: prompt_experts_input(experts, task); break;
    case PROMPT_EXPERTS_GATE_UP:
        prompt_experts_gate_up(experts, task, s->prompt);
        break;
    case PROMPT_EXPERTS_INNER: prompt_experts_inner(experts, task); break;
    default: prompt_experts_down(experts, task, s->prompt);
    }
}

static int64_t phase_tasks(const Decoder *d, int64_t phase)
{
    const Model *m = &d->model;
    if (phase == end_phase(m))
        return 0;
    if (phase > end_phase(m))
        return prompt_phase_tasks(d, phase - prompt_phase(m, 0));
    const Step *step = &m->steps[phase];
    switch (step->kind) {
    case STEP_ATTENTION: return attention_tasks(d, step->detail);
    case STEP_EXPERTS_GATE_UP: return experts_gate_up_tasks(d, step->detail);
    case STEP_EXPERTS_DOWN: return experts_down_tasks(d, step->detail);
    case STEP_CONV: return conv_step_tasks(d, step->detail);
    case STEP_MEMORY: return memory_step_tasks(d, step->detail);
    default: return matmul_step_tasks(d, step->detail);
    }
}

static void run_task(const Decoder *d, int64_t phase, int64_t task, ThreadScratch *s)
{
    if (phase > end_phase(&d->model)) {
        run_prompt_task(d, phase - prompt_phase(&d->model, 0), task, s);
        return;
    }
    const Step *step = &d->model.steps[phase];
    switch (step->kind) {
    case STEP_ATTENTION: gqa_attention(d, step->detail, task, s); break;
    case STEP_EXPERTS_GATE_UP: run_experts_gate_up(d, phase, step->detail, task, s); break;
    case STEP_EXPERTS_DOWN: run_experts_down(d, phase, step->detail, task, s); break;
    case STEP_CONV: run_conv(d, step->detail, task); break;
    case STEP_MEMORY: run_memory(d, step->detail, task, s->memory); break;
    default: run_matmul(d, phase, step->detail, task, s);
    }
}

/* What the thread that finished a phase's last task does before the next phase begins. */
static void finish_phase(const Decoder *d, int64_t phase)
{
    if (phase >= end_phase(&d->model))
        return;
    const Step *step = &d->model.steps[phase];
    if (step->kind == STEP_MATMUL)
        finish_matmul(d, step->detail);
    else if (step->kind == STEP_MEMORY)
        finish_memory(d, step->detail);
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

static void begin_phase(Decoder *d, int64_t phase)
{
    int64_t tasks = phase_tasks(d, phase);
    atomic_store(&d->finished_tasks, 0);
    atomic_store(&d->input_progress->next, 0);
    atomic_store(&d->input_progress->ready, 0);
    atomic_store(&d->ticket, make_ticket(phase, tasks));
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
        if (atomic_fetch_add(&d->finished_tasks, 1) + 1 == ticket_tasks(ticket)) {
            finish_phase(d, ticket_phase(ticket));
            begin_phase(d, next_phase(&d->model, ticket_phase(ticket)));
        }
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
    free(d->arena), free(d->partial_attention), free(d->lora_hidden);
    free(d->prompt_area), free(d->routing), free(d->input_progress);
    free(d->buffers), free(d->strides), free(d->scratch), free(d->workers), free(d);
}

static float *arena_alloc(float **arena, int64_t count)
{
    float *block = *arena;
    *arena += round_up(count, LANES);
    return block;
}

/* Floats that the quantized form of so many values takes in the arena. */
static int64_t activations_size(int64_t values)
{
    return 2 * (values / (int64_t)sizeof(float)) + values / ACTIVATION_GROUP
           + 2 * (values / 16 + LANES) + 5 * LANES;
}

static Activations arena_alloc_activations(float **arena, int64_t values)
{
    return (Activations){
        .q_high = (int8_t *)arena_alloc(arena, values / (int64_t)sizeof(float)),
        .q_low = (int8_t *)arena_alloc(arena, values / (int64_t)sizeof(float)),
        .scales = arena_alloc(arena, values / ACTIVATION_GROUP),
        .sums_of_16 = arena_alloc(arena, values / 16 + LANES),
        .sums_of_32 = arena_alloc(arena, values / 16 + LANES),
    };
}

/* Sizes of the buffers of one thread, in floats. */
typedef struct {
    int64_t prepared, query, kv_scales, attention, memory;
    int64_t input, gathered; /* values of `input` and `gathered` */
} ScratchSizes;

static ScratchSizes scratch_sizes(const Model *m)
{
    ScratchSizes sizes = {0};
    int64_t widest = 0;
    for (const Step *step = m->steps; step < m->steps + m->step_count; step++)
        if (step->kind == STEP_MATMUL) {
            const MatmulStep *matmul = step->detail;
            widest = max_i64(widest, matmul->matrices[0].matrix.width);
        } else if (step->kind == STEP_ATTENTION) {
            const AttentionStep *a = step->detail;
            int64_t stride = round_up(a->head_dim, KV_GROUP);
            int64_t queries = a->num_attention_heads / a->num_key_value_heads;
            sizes.query = max_i64(sizes.query, queries * stride);
            sizes.kv_scales = max_i64(sizes.kv_scales, 2 * KV_CHUNK * stride / KV_GROUP);
            sizes.attention = max_i64(sizes.attention, prompt_attention_size(stride));
        } else if (step->kind == STEP_MEMORY) {
            const MemoryStep *own = step->detail;
            sizes.memory = max_i64(sizes.memory, memory_scratch_size(&own->memory));
        } else if (step->kind == STEP_EXPERTS_GATE_UP) {
            const ExpertsStep *experts = step->detail;
            int64_t inner = experts->moe.num_experts_per_tok * inner_stride(experts);
            widest = max_i64(widest, experts->moe.gate_proj->width);
            sizes.input = max_i64(sizes.input, MAX_STEP_TOKENS * inner);
            sizes.gathered =
                max_i64(sizes.gathered, MAX_VECTORS * experts->moe.gate_proj->width);
        }
    sizes.prepared = MAX_STEP_TOKENS * widest;
    sizes.input = max_i64(sizes.input, sizes.prepared);
    return sizes;
}

/* Allocate the shared buffers and those of each thread, zero-initialized. */
static bool allocate_buffers(Decoder *d)
{
    const Model *m = &d->model;
    ScratchSizes sizes = scratch_sizes(m);
    int64_t per_thread = sizes.prepared + sizes.query + MAX_VECTORS * KV_CHUNK + sizes.kv_scales
                         + sizes.attention + activations_size(sizes.input) + sizes.gathered
                         + activations_size(sizes.gathered) + PROMPT_WEIGHTS_SIZE
                         + PROMPT_FACTORS_SIZE + PROMPT_RESULTS_SIZE + sizes.memory + 10 * LANES;
    int64_t total = d->num_threads * per_thread;
    d->buffers = calloc((size_t)m->buffer_count, sizeof *d->buffers);
    d->strides = calloc((size_t)m->buffer_count, sizeof *d->strides);
    d->scratch = calloc((size_t)d->num_threads, sizeof *d->scratch);
    d->workers = calloc((size_t)d->num_threads, sizeof *d->workers);
    d->routing = calloc(1, sizeof *d->routing);
    if (!d->buffers || !d->strides || !d->scratch || !d->workers || !d->routing)
        return false;
    for (int64_t i = 0; i < m->buffer_count; i++) {
        d->strides[i] = round_up(m->buffer_sizes[i], ACTIVATION_GROUP);
        total += MAX_STEP_TOKENS * d->strides[i];
    }
    d->arena = aligned_alloc(64, (size_t)round_up(total, LANES) * sizeof(float));
    if (!d->arena)
        return false;
    memset(d->arena, 0, (size_t)total * sizeof(float));
    float *next = d->arena;
    for (int64_t i = 0; i < m->buffer_count; i++)
        d->buffers[i] = arena_alloc(&next, MAX_STEP_TOKENS * d->strides[i]);
    for (int i = 0; i < d->num_threads; i++) {
        ThreadScratch *s = &d->scratch[i];
        s->prepared = arena_alloc(&next, sizes.prepared);
        s->query = arena_alloc(&next, sizes.query);
        s->attention_scores = arena_alloc(&next, MAX_VECTORS * KV_CHUNK);
        s->kv_scales = arena_alloc(&next, sizes.kv_scales);
        s->attention = arena_alloc(&next, sizes.attention);
        s->input = arena_alloc_activations(&next, sizes.input);
        s->gathered = arena_alloc_activations(&next, sizes.gathered);
        s->gathered.values = arena_alloc(&next, sizes.gathered);
        s->prompt.weights = arena_alloc(&next, PROMPT_WEIGHTS_SIZE);
        s->prompt.factors = arena_alloc(&next, PROMPT_FACTORS_SIZE);
        s->prompt.results = arena_alloc(&next, PROMPT_RESULTS_SIZE);
        s->memory = arena_alloc(&next, sizes.memory);
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
    d->model = *model, d->num_threads = threads;
    d->input_progress = aligned_alloc(64, sizeof *d->input_progress);
    if (!d->input_progress) {
        free(d);
        return NULL;
    }
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

/* Floats that a token of a sequence needs for partial attention, in the step that needs most. */
static int64_t largest_partial_attention(const Model *m, const SequenceInput *sequence)
{
    int64_t largest = 0;
    for (const Step *step = m->steps; step < m->steps + m->step_count; step++)
        if (step->kind == STEP_ATTENTION)
            largest = max_i64(largest, partial_attention_size(step->detail, sequence));
    return largest;
}

/* Set up the TokenState of each token and the buffers that depend on their number. */
static bool prepare_tokens(Decoder *d, const SequenceInput *sequences, int64_t count)
{
    int64_t partial_size = 0, offsets[MAX_STEP_TOKENS];
    d->token_count = d->max_lora_rank = 0;
    for (const SequenceInput *s = sequences; s < sequences + count; s++) {
        int64_t size = largest_partial_attention(&d->model, s);
        for (int64_t i = 0; i < s->token_count; i++, partial_size += size) {
            offsets[d->token_count] = partial_size;
            d->tokens[d->token_count++] = (TokenState){s, s->length + i, NULL};
        }
        for (int64_t i = 0; s->lora && i < d->model.lora_count; i++)
            d->max_lora_rank = max_i64(d->max_lora_rank, s->lora[i].rank);
    }
    int64_t lora_size = MAX_STEP_TOKENS * MAX_STEP_MATRICES * d->max_lora_rank;
    if (!grow_buffer(&d->partial_attention, &d->partial_attention_capacity, partial_size)
        || !grow_buffer(&d->lora_hidden, &d->lora_hidden_capacity, d->num_threads * lora_size))
        return false;
    for (int i = 0; i < d->num_threads; i++)
        d->scratch[i].lora_hidden = d->lora_hidden + i * lora_size;
    for (int64_t t = 0; t < d->token_count; t++)
        d->tokens[t].partial_attention = d->partial_attention + offsets[t];
    return true;
}

int64_t max_step_tokens(void) { return MAX_STEP_TOKENS; }

/* Add at most MAX_STEP_TOKENS tokens to the KV caches of their sequences, and write the logits
   after each: (tokens, vocab_size). They are bit for bit those of one token per call. `inputs` are
   what enters the first layer in place of the embeddings, or NULL; `hidden` is where what leaves the
   last one goes, before the norm, or NULL: both (tokens, hidden_size). Returns 0, or -1 when out of
   memory, with nothing changed. */
int decode(Decoder *d, const SequenceInput *sequences, int64_t count, const int64_t *tokens,
           const float *inputs, float *logits, float *hidden)
{
    const Model *m = &d->model;
    if (!prepare_tokens(d, sequences, count))
        return -1;
    d->logits = logits;
    for (int64_t t = 0; t < d->token_count; t++) {
        float *residual = d->buffers[RESIDUAL] + t * d->strides[RESIDUAL];
        if (inputs != NULL) {
            memcpy(residual, inputs + t * m->hidden_size, m->hidden_size * sizeof(float));
            continue;
        }
        read_rows(m->embed_tokens.data, m->embed_tokens.type, m->embed_tokens.row_bytes,
                  m->embed_tokens.columns, &tokens[t], 1, residual);
        for (int64_t i = 0; i < m->hidden_size; i++)
            residual[i] *= m->embedding_multiplier;
        if (m->input_buffer < 0)
            continue;
        float *own = d->buffers[m->input_buffer] + t * d->strides[m->input_buffer];
        read_rows(m->input_table.data, m->input_table.type, m->input_table.row_bytes,
                  m->input_table.columns, &tokens[t], 1, own);
        for (int64_t i = 0; i < m->input_table.columns; i++)
            own[i] *= m->input_multiplier;
    }
    wake_workers(d, 0, false);
    run_tasks(d, &d->scratch[0]);
    for (int64_t t = 0; hidden != NULL && t < d->token_count; t++)
        memcpy(hidden + t * m->hidden_size, d->buffers[RESIDUAL] + t * d->strides[RESIDUAL],
               m->hidden_size * sizeof(float));
    return 0;
}

/* Read the newest tokens that a sequence has kept into its state, before a prompt follows. */
void settle(Decoder *d, const SequenceInput *sequence)
{
    settle_state(d, sequence, d->scratch[0].memory);
}

/* Make the prompt's area hold `size` floats; what is in it is lost. */
static bool grow_prompt_area(Decoder *d, int64_t size)
{
    if (size <= d->prompt_capacity)
        return true;
    free(d->prompt_area);
    d->prompt_area = aligned_alloc(64, (size_t)round_up(size, LANES) * sizeof *d->prompt_area);
    d->prompt_capacity = d->prompt_area ? size : 0;
    return d->prompt_area;
}

/* Multiply `count` matrices of the same width with the vectors of a prompt, (vectors, columns):
   `x`, or activation(x) * up where `gate` is an activation. The results of each, (vectors, rows),
   are written to its `y`. Returns 0, or -1 when out of memory. */
int multiply_matrices(Decoder *d, const PackedMatrix *matrices, int64_t count, const float *x,
                      const float *up, int64_t gate, int64_t columns, int64_t vectors,
                      float *const *y)
{
    for (int64_t from = 0, to = 0; from < count; from = to) {
        PromptForm form = prompt_form(matrices[from].format);
        while (to < count && prompt_form(matrices[to].format) == form)
            to++;
        PromptVectors prompt = {.input = x, .up = up, .gate = gate, .vectors = vectors,
                                .columns = columns, .width = matrices->width, .form = form};
        if (!grow_prompt_area(d, prompt_vectors_size(&prompt)))
            return -1;
        place_prompt_vectors(&prompt, d->prompt_area);
        d->prompt = (PromptCall){matrices + from, to - from, prompt, y + from};
        wake_workers(d, prompt_phase(&d->model, PROMPT_VECTORS), false);
        run_tasks(d, &d->scratch[0]);
    }
    return 0;
}

/* Add a block of tokens to the KV cache of one layer with attention, given by its number, and let
   them attend; without keys and values these are there already.

   `queries`, `keys` and `values` are (tokens, heads * head_dim), `out` is as `queries`. Keys and
   queries are normalized and rotated here where the layer does so for each head. */
void attend_prompt(Decoder *d, int64_t layer, const SequenceInput *sequence,
                   const float *queries, const float *keys, const float *values, float *out)
{
    const Step *step = d->model.steps;
    while (step->kind != STEP_ATTENTION || ((const AttentionStep *)step->detail)->number != layer)
        step++;
    PromptAttention prompt = {step->detail, sequence, queries, keys, values, out};
    d->prompt_attention = &prompt;
    wake_workers(d, prompt_phase(&d->model, keys ? PROMPT_STORE : PROMPT_ATTENTION), false);
    run_tasks(d, &d->scratch[0]);
    d->prompt_attention = NULL;
}

/* Mix experts for `count` vectors of a prompt, (count, columns): write the weighted sums of their
   outputs, (count, rows of down_proj), to `y`.

   A slot is a token that uses an expert. `slots` has their number for each expert; `tokens` and
   `weights` have the slots themselves, by expert. Returns 0, or -1 when out of memory. */
int multiply_experts(Decoder *d, const Moe *moe, const float *x, int64_t columns, int64_t count,
                     const int64_t *slots, const int64_t *tokens, const float *weights, float *y)
{
    ExpertsPrompt prompt = {.moe = moe, .tokens = tokens, .weights = weights, .vectors = count,
                            .y = y};
    prompt.experts = calloc((size_t)moe->num_experts, sizeof *prompt.experts);
    if (!prompt.experts)
        return -1;
    int64_t slot = 0;
    for (int64_t e = 0; e < moe->num_experts; slot += slots[e++])
        if (slots[e])
            prompt.experts[prompt.expert_count++].chosen = (ChosenExpert){e, slot, slots[e]};
    int64_t size = place_experts_prompt(&prompt, x, columns, NULL);
    bool ok = grow_prompt_area(d, size + slot * moe->gate_proj->rows);
    if (ok) {
        prompt.inner = d->prompt_area + size;
        place_experts_prompt(&prompt, x, columns, d->prompt_area);
        d->experts_prompt = &prompt;
        wake_workers(d, prompt_phase(&d->model, PROMPT_EXPERTS_INPUT), false);
        run_tasks(d, &d->scratch[0]);
        d->experts_prompt = NULL;
    }
    free(prompt.experts);
    return ok ? 0 : -1;
}

/* Multiply lm_head with the normalized state after the last token of a prompt, (hidden_size,), as
   for a token that is decoded; writes (vocab_size,) logits. */
void multiply_lm_head(Decoder *d, const float *x, float *logits)
{
    d->token_count = 1, d->max_lora_rank = 0, d->logits = logits, d->is_normalized = true;
    memcpy(d->buffers[RESIDUAL], x, (size_t)d->model.hidden_size * sizeof *x);
    wake_workers(d, lm_head_phase(&d->model), false);
    run_tasks(d, &d->scratch[0]);
    d->is_normalized = false;
}
