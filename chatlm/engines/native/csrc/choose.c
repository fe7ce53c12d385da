/* Chooses the next token from logits, as `samplers.py` does with torch: the largest logit, or a
   draw after top-n-sigma, temperature, top-k, top-p, min-p and XTC.

   Only a few tokens can be chosen. A lower bound for their logits is computed from all logits with
   vector instructions, and the rest is done with the few that reach it. */

#include "vectors.h"

enum { BLOCK = 64 }; /* logits whose largest is found first */

typedef struct {
    float temperature;    /* 0 takes the largest logit */
    float top_p, min_p;   /* 1 and 0 are off */
    float top_n_sigma;    /* 0 is off */
    float xtc_threshold;  /* above 0.5 is off */
    int64_t top_k;        /* 0 is off */
    double point;         /* the random number, 0 to 1 without 1 */
} Choice;

/* Tokens that may still be chosen, by id. `weights` are probabilities relative to the likeliest. */
typedef struct {
    int64_t count;
    int32_t *ids;
    float *weights; /* logits at first */
} Candidates;

typedef struct {
    float weight;
    int64_t place; /* among the candidates */
} Ranked;

/* --- all logits ------------------------------------------------------------------------------ */

/* Copy a block, padded with -inf. */
static inline void load_block(const float *logits, int64_t count, int64_t first, float out[BLOCK])
{
    int64_t size = min_i64(BLOCK, count - first);
    memcpy(out, logits + first, (size_t)size * sizeof *out);
    for (int64_t i = size; i < BLOCK; i++)
        out[i] = -INFINITY;
}

/* Find the largest logit of each block; return the largest of all, NaN if any logit is NaN. */
static float find_largest(const float *logits, int64_t count, float *maxima)
{
    float largest = -INFINITY, values[BLOCK];
    i32x16 any_nan = {0};
    for (int64_t first = 0; first < count; first += BLOCK) {
        load_block(logits, count, first, values);
        f32x16 lanes = load_f32x16(values);
        for (int i = 0; i < BLOCK; i += LANES) {
            f32x16 next = load_f32x16(values + i);
            i32x16 larger = next > lanes;
            any_nan |= next != next;
            lanes = (f32x16)(((i32x16)next & larger) | ((i32x16)lanes & ~larger));
        }
        float own[LANES];
        memcpy(own, &lanes, sizeof own);
        for (int step = LANES / 2; step; step /= 2)
            for (int i = 0; i < step; i++)
                own[i] = own[i + step] > own[i] ? own[i + step] : own[i];
        maxima[first / BLOCK] = own[0];
        largest = own[0] > largest ? own[0] : largest;
    }
    for (int i = 0; i < LANES; i++)
        largest = any_nan[i] ? NAN : largest;
    return largest;
}

static inline double sum_of_block(const float values[BLOCK])
{
    f32x16 lanes = {0};
    for (int i = 0; i < BLOCK; i += LANES)
        lanes += load_f32x16(values + i);
    return (double)horizontal_sum(lanes);
}

/* The standard deviation of the finite logits. */
static double deviation(const float *logits, int64_t count)
{
    float values[BLOCK], finite[BLOCK];
    double number = 0, mean = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++) {
        double sum = 0;
        float center = (float)mean;
        for (int64_t first = 0; first < count; first += BLOCK) {
            load_block(logits, count, first, values);
            for (int i = 0; i < BLOCK; i++) {
                finite[i] = values[i] > -INFINITY ? 1.0f : 0.0f;
                values[i] = values[i] > -INFINITY ? values[i] - center : 0.0f;
                if (pass)
                    values[i] *= values[i];
            }
            sum += sum_of_block(values);
            number += pass ? 0 : sum_of_block(finite);
        }
        if (pass)
            squares = sum;
        else
            mean = sum / number;
    }
    return sqrt(squares / number);
}

static inline float weight_of(float logit, float largest, float temperature)
{
    return expf_approx((logit - largest) / temperature);
}

/* The sum of the weights of all logits from `low`. */
static double sum_weights(const float *logits, int64_t count, float low, float largest,
                          float temperature)
{
    float values[BLOCK];
    double sum = 0;
    for (int64_t first = 0; first < count; first += BLOCK) {
        load_block(logits, count, first, values);
        for (int i = 0; i < BLOCK; i++)
            values[i] = values[i] < low ? 0.0f : weight_of(values[i], largest, temperature);
        sum += sum_of_block(values);
    }
    return sum;
}

/* --- the few that can be chosen -------------------------------------------------------------- */

/* Return the k-th largest of more than k values, which are reordered. */
static float kth_largest(float *values, int64_t count, int64_t k)
{
    int64_t from = 0, to = count - 1, wanted = k - 1;
    while (from < to) {
        float pivot = values[from + (to - from) / 2];
        int64_t left = from, right = to;
        while (left <= right) {
            while (values[left] > pivot)
                left++;
            while (values[right] < pivot)
                right--;
            if (left <= right) {
                float swapped = values[left];
                values[left++] = values[right], values[right--] = swapped;
            }
        }
        if (wanted <= right)
            to = right;
        else if (wanted >= left)
            from = left;
        else
            break;
    }
    return values[wanted];
}

/* Keep the candidates whose value is at least `low`. */
static void keep_from(Candidates *c, float low)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < c->count; i++) {
        c->ids[kept] = c->ids[i], c->weights[kept] = c->weights[i];
        kept += c->weights[i] >= low;
    }
    c->count = kept;
}

/* Collect the logits from `low`; `maxima` has the largest of each block. */
static void collect(const float *logits, int64_t count, const float *maxima, float low,
                    Candidates *c)
{
    for (int64_t first = 0; first < count; first += BLOCK) {
        if (!(maxima[first / BLOCK] >= low))
            continue;
        for (int64_t i = first; i < min_i64(first + BLOCK, count); i++) {
            c->ids[c->count] = (int32_t)i, c->weights[c->count] = logits[i];
            c->count += logits[i] >= low;
        }
    }
}

static double sum_candidates(const Candidates *c)
{
    double sum = 0;
    for (int64_t i = 0; i < c->count; i++)
        sum += (double)c->weights[i];
    return sum;
}

static int by_rank(const void *left, const void *right)
{
    const Ranked *a = left, *b = right;
    if (a->weight != b->weight)
        return a->weight < b->weight ? 1 : -1;
    return a->place < b->place ? -1 : 1;
}

/* The leading bits of a weight: larger weights have no smaller ones. */
static inline int bucket_of(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return (int)(bits >> 20);
}

/* Keep the likeliest candidates whose weights reach `limit`; `ranked` is a buffer. Weights are
   added up by leading bits, so that only those which cross the limit have to be sorted. */
static void keep_nucleus(Candidates *c, double limit, Ranked *ranked)
{
    enum { BUCKETS = (0x3f800000 >> 20) + 1 }; /* weights are at most 1 */
    double masses[BUCKETS] = {0}, reached = 0;
    for (int64_t i = 0; i < c->count; i++)
        masses[bucket_of(c->weights[i])] += (double)c->weights[i];
    int crossing = BUCKETS - 1;
    while (crossing > 0 && reached + masses[crossing] < limit)
        reached += masses[crossing--];
    int64_t count = 0, kept = 0, taken = 0;
    for (int64_t i = 0; i < c->count; i++)
        if (bucket_of(c->weights[i]) == crossing)
            ranked[count++] = (Ranked){c->weights[i], i};
    qsort(ranked, (size_t)count, sizeof *ranked, by_rank);
    for (; taken < count && (reached < limit || taken == 0); taken++)
        reached += (double)ranked[taken].weight;
    for (int64_t i = taken; i < count; i++)
        c->weights[ranked[i].place] = 0.0f;
    for (int64_t i = 0; i < c->count; i++) {
        float weight = c->weights[i];
        c->ids[kept] = c->ids[i], c->weights[kept] = weight;
        kept += weight > 0.0f && bucket_of(weight) >= crossing;
    }
    c->count = kept;
}

/* Drop all but the least likely of the candidates that reach the threshold, if there are two. */
static void exclude_top_choices(Candidates *c, float threshold)
{
    double sum = sum_candidates(c);
    int64_t top = 0, least = 0, kept = 0;
    for (int64_t i = 0; i < c->count; i++)
        if ((double)c->weights[i] >= (double)threshold * sum) {
            least = top++ && c->weights[i] >= c->weights[least] ? least : i;
        }
    if (top < 2)
        return;
    for (int64_t i = 0; i < c->count; i++) {
        bool keeps = i == least || (double)c->weights[i] < (double)threshold * sum;
        c->ids[kept] = c->ids[i], c->weights[kept] = c->weights[i];
        kept += keeps;
    }
    c->count = kept;
}

static int64_t draw(const Candidates *c, double point)
{
    double left = point * sum_candidates(c), reached = 0;
    for (int64_t i = 0; i < c->count; i++) {
        reached += (double)c->weights[i];
        if (reached > left)
            return c->ids[i];
    }
    return c->ids[c->count - 1];
}

/* --- choosing -------------------------------------------------------------------------------- */

/* Return a lower bound for the logits of tokens that can be chosen. */
static float lower_bound(const Choice *how, const float *logits, int64_t count, float largest,
                         double *sum)
{
    float low = -3.4e38f;
    if (how->top_n_sigma > 0.0f)
        low = (float)((double)largest - (double)how->top_n_sigma * deviation(logits, count));
    float least = how->min_p; /* weight */
    if (how->top_p < 1.0f && how->top_k)
        return low; /* top-p needs the sum of all that top-k leaves */
    if (how->top_p < 1.0f) {
        *sum = sum_weights(logits, count, low, largest, how->temperature);
        /* all tokens that are less likely than this add up to less than 1 - p */
        float rare = (float)((1.0 - (double)how->top_p) * *sum / (double)count);
        least = rare > least ? rare : least;
    }
    if (least > 0.0f) { /* a little lower, since weights are rounded */
        float bound = largest + how->temperature * (logf(least) - 1e-3f) - 1e-5f * fabsf(largest);
        low = bound > low ? bound : low;
    }
    return low;
}

enum { NO_TOKEN = -1, NO_MEMORY = -2 };

/* Choose one of `count` logits; NO_TOKEN if all are -inf or one is NaN. */
int64_t choose_token(const float *logits, int64_t count, const Choice *how)
{
    int64_t blocks = (count + BLOCK - 1) / BLOCK, chosen = NO_TOKEN;
    float *maxima = malloc((size_t)blocks * sizeof *maxima);
    float *copy = malloc((size_t)(count + 1) * sizeof *copy);
    Ranked *ranked = malloc((size_t)count * sizeof *ranked);
    Candidates c = {0, malloc((size_t)(count + 1) * sizeof *c.ids),
                    malloc((size_t)(count + 1) * sizeof *c.weights)};
    if (!maxima || !copy || !ranked || !c.ids || !c.weights) {
        chosen = NO_MEMORY;
        goto end;
    }
    float largest = find_largest(logits, count, maxima);
    if (how->temperature == 0.0f && largest > -INFINITY) {
        int64_t block = 0;
        while (maxima[block] != largest)
            block++;
        for (chosen = block * BLOCK; logits[chosen] != largest;)
            chosen++;
        goto end;
    }
    if (!(largest > -INFINITY && largest < INFINITY))
        goto end;
    int64_t k = how->top_k < count ? how->top_k : 0;
    Choice own = *how;
    own.top_k = k;
    double sum = 0;
    float low = lower_bound(&own, logits, count, largest, &sum);
    if (k && k < blocks) { /* k blocks have a logit that is at least the k-th largest maximum */
        memcpy(copy, maxima, (size_t)blocks * sizeof *copy);
        float bound = kth_largest(copy, blocks, k);
        low = bound > low ? bound : low;
    }
    collect(logits, count, maxima, low, &c);
    if (k && k < c.count) {
        memcpy(copy, c.weights, (size_t)c.count * sizeof *copy);
        keep_from(&c, kth_largest(copy, c.count, k));
    }
    for (int64_t i = 0; i < c.count; i++)
        c.weights[i] = weight_of(c.weights[i], largest, how->temperature);
    if (how->top_p < 1.0f)
        keep_nucleus(&c, (double)how->top_p * (k ? sum_candidates(&c) : sum), ranked);
    if (how->min_p > 0.0f)
        keep_from(&c, how->min_p);
    if (how->xtc_threshold <= 0.5f)
        exclude_top_choices(&c, how->xtc_threshold);
    chosen = draw(&c, how->point);
end:
    free(maxima), free(copy), free(ranked), free(c.ids), free(c.weights);
    return chosen;
}
