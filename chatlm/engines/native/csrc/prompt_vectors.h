/* The vectors of a prompt in the form that a matrix format is multiplied with.

   AS_WORDS: quantized to 15 bits per ACTIVATION_GROUP, as for a token that is decoded and a quantized
   matrix, so that the products are sums of integers. AS_PAIRED_WORDS: the same words, and
   the same results, where additions are cheaper than products (see prompt_words.h). AS_SPLIT_BF16, with
   AMX: each number as the sum of two in bfloat16, which keep 16 bits or more. AS_FLOATS: for matrices
   in float32, for models in it, and on processors that multiply words no faster.

   The values are (vectors / 16, width / 32, 16, 32), padded with zeros to VECTOR_BLOCK
   vectors: tiles that lie together, since rows a power of two apart would compete for the same
   cache lines. */

#pragma once

#include "formats.h"

#if !defined ELEMENT_IS_FLOAT32 && defined __AVX2__
#define HAS_WORD_PRODUCTS
#endif

#if defined HAS_WORD_PRODUCTS && defined __AVX512VNNI__
#define HAS_PAIRED_WORDS
#include <cpuid.h>
#endif

#if defined HAS_WORD_PRODUCTS && defined __AMX_BF16__ && defined __linux__
#define HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { VECTOR_BLOCK = 32 };
enum { TILE_VECTORS = 16, TILE_COLUMNS = 32, TILE_SIZE = TILE_VECTORS * TILE_COLUMNS };

enum { PAIR_ROWS = 2 * LANES }; /* two panels are multiplied together */

enum { MAX_WORD_FACTORS = 6 }; /* see prompt_words.h */

typedef enum { AS_FLOATS, AS_WORDS, AS_PAIRED_WORDS, AS_SPLIT_BF16 } PromptForm;

typedef struct {
    const float *input;  /* (…, columns) */
    const int64_t *rows; /* which rows of it the vectors are, or NULL for the first ones */
    const float *up;     /* as `input`, of a gate: the vectors are activation(input) * up */
    int64_t gate;        /* its activation, or NO_GATE */
    int64_t vectors, columns;
    int64_t width; /* padded columns */
    PromptForm form;
    void *values;  /* float, int16_t or bfloat16; AS_SPLIT_BF16: the larger parts, then the others */
    float *scales; /* of words: (vectors, width / ACTIVATION_GROUP) */
    float *sums_of_16, *sums_of_32; /* of words: sums of the values of so many columns */
    uint32_t *pair_products; /* AS_PAIRED_WORDS: (vectors, width / 32), see prompt_words.h */
} PromptVectors;

#ifdef HAS_WORD_PRODUCTS
/* Whether the processor adds words at least twice as fast as it multiplies them: AMD's do. */
static bool has_cheap_additions(void)
{
#if defined HAS_PAIRED_WORDS && defined PAIRS_WORDS
    return PAIRS_WORDS; /* for tests */
#elif defined HAS_PAIRED_WORDS
    static _Atomic int known; /* the question takes long in a virtual machine */
    if (!known) {
        unsigned highest, ebx, ecx, edx;
        bool is_amd = __get_cpuid(0, &highest, &ebx, &ecx, &edx) && ebx == signature_AMD_ebx;
        known = is_amd ? 1 : -1;
    }
    return known > 0;
#else
    return false;
#endif
}
#endif

/* Whether the system lets this process use AMX. */
static bool may_use_amx(void)
{
#ifdef HAS_AMX
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    static _Atomic int known;
    if (!known) {
        bool may = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
        known = may ? 1 : -1;
    }
    return known > 0;
#else
    return false;
#endif
}

static PromptForm prompt_form(int64_t format)
{
#ifdef HAS_WORD_PRODUCTS
    if (format != F32 && may_use_amx())
        return AS_SPLIT_BF16;
    if (format != F32)
        return has_cheap_additions() ? AS_PAIRED_WORDS : AS_WORDS;
#endif
    (void)format;
    return AS_FLOATS;
}

static bool has_words(PromptForm form) { return form == AS_WORDS || form == AS_PAIRED_WORDS; }

/* Values with padding. */
static int64_t padded_values(const PromptVectors *p)
{
    return round_up(p->vectors, VECTOR_BLOCK) * p->width;
}

/* Floats that the values, scales and sums of some vectors take: a multiple of 32. */
static int64_t prompt_vectors_size(const PromptVectors *p)
{
    int64_t count = padded_values(p);
    int64_t of_words = has_words(p->form) ? count * (1 + 4 + 2 + 2) / ACTIVATION_GROUP : 0;
    return (has_words(p->form) ? count / 2 : count) + of_words;
}

/* Let the buffers of `p` be parts of an area of `prompt_vectors_size` floats. */
static void place_prompt_vectors(PromptVectors *p, float *area)
{
    int64_t count = padded_values(p);
    p->values = area;
    p->scales = area + count / 2;
    p->sums_of_16 = p->scales + count / ACTIVATION_GROUP;
    p->sums_of_32 = p->sums_of_16 + count / 16;
    p->pair_products = (uint32_t *)(p->sums_of_32 + count / 32);
}

static int64_t prompt_vectors_tasks(const PromptVectors *p)
{
    return round_up(p->vectors, VECTOR_BLOCK) / TILE_VECTORS;
}

/* Where the values of a vector from `column` on are. */
static int64_t tile_offset(const PromptVectors *p, int64_t vector, int64_t column)
{
    return vector / TILE_VECTORS * TILE_VECTORS * p->width + column * TILE_VECTORS
           + vector % TILE_VECTORS * TILE_COLUMNS;
}

/* 16 values of a vector, zeros after its last. */
static f32x16 load_padded(const PromptVectors *p, int64_t vector, int64_t column)
{
    int64_t count = min_i64(p->columns - column, LANES);
    if (vector >= p->vectors || count <= 0)
        return (f32x16){0};
    int64_t at = (p->rows ? p->rows[vector] : vector) * p->columns + column;
    if (!p->gate && count == LANES)
        return load_f32x16(p->input + at);
    if (count == LANES) {
        f32x16 values = load_f32x16(p->input + at), up = load_f32x16(p->up + at);
        apply_activation(p->gate, (float *)&values, (const float *)&up, LANES);
        return values;
    }
    float values[LANES] = {0}, up[LANES] = {0};
    memcpy(values, p->input + at, (size_t)count * sizeof *values);
    if (p->gate) {
        memcpy(up, p->up + at, (size_t)count * sizeof *up);
        apply_activation(p->gate, values, up, LANES);
    }
    return load_f32x16(values);
}

/* Store 16 int32 as the lower halves of them. */
static void store_words(i32x16 values, void *out)
{
    typedef int16_t i16x16 __attribute__((vector_size(2 * LANES)));
    i16x16 words = __builtin_convertvector(values, i16x16);
    memcpy(out, &words, sizeof words);
}

#ifdef HAS_PAIRED_WORDS
/* The sum, modulo 2^32, of the products of 16 codes in pairs: of each four, the first with the third,
   and the second with the fourth. */
static uint32_t multiply_pairs(i32x16 codes)
{
    __m512i others = _mm512_shuffle_epi32((__m512i)codes, _MM_PERM_BADC);
    __m512i products = _mm512_mullo_epi32((__m512i)codes, others);
    return (uint32_t)_mm512_mask_reduce_add_epi32(0x3333, products);
}
#endif

/* Quantize one group; an infinity or NaN makes its scale one too. */
static void words_of_group(const PromptVectors *p, int64_t vector, int64_t column)
{
    f32x16 values[ACTIVATION_GROUP / LANES];
    i32x16 magnitudes = {0};
    for (int i = 0; i < ACTIVATION_GROUP / LANES; i++) {
        values[i] = load_padded(p, vector, column + i * LANES);
        magnitudes = larger_magnitudes(magnitudes, values[i]);
    }
    float scale, inverse = activation_scale(magnitudes, &scale);
    p->scales[(vector * p->width + column) / ACTIVATION_GROUP] = scale;
    for (int i = 0; i < ACTIVATION_GROUP / LANES; i++, column += LANES) {
        i32x16 codes = round_to_codes(values[i] * inverse);
        store_words(codes, (int16_t *)p->values + tile_offset(p, vector, column / 32 * 32)
                               + column % 32);
        float sum = scale * horizontal_sum(__builtin_convertvector(codes, f32x16));
        float *pair = p->sums_of_32 + (vector * p->width + column) / 32;
        p->sums_of_16[(vector * p->width + column) / 16] = sum;
        *pair = i % 2 ? *pair + sum : sum;
#ifdef HAS_PAIRED_WORDS
        if (p->form == AS_PAIRED_WORDS) {
            uint32_t *products = p->pair_products + (vector * p->width + column) / 32;
            *products = (i % 2 ? *products : 0) + multiply_pairs(codes);
        }
#endif
    }
}

/* Convert the vectors of one task. */
static void convert_prompt_vectors(const PromptVectors *p, int64_t task)
{
    for (int64_t vector = task * TILE_VECTORS; vector < (task + 1) * TILE_VECTORS; vector++) {
        if (has_words(p->form)) {
            for (int64_t column = 0; column < p->width; column += ACTIVATION_GROUP)
                words_of_group(p, vector, column);
            continue;
        }
        for (int64_t column = 0; column < p->width; column += LANES) {
            f32x16 values = load_padded(p, vector, column), large = round_to_bf16(values);
            int64_t at = tile_offset(p, vector, column / 32 * 32) + column % 32;
            if (p->form == AS_FLOATS) {
                memcpy((float *)p->values + at, &values, sizeof values);
                continue;
            }
            store_words((i32x16)large >> 16, (uint16_t *)p->values + at);
            store_words((i32x16)round_to_bf16(values - large) >> 16,
                        (uint16_t *)p->values + padded_values(p) + at);
        }
    }
}
