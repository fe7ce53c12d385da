/* Bands of packed rows times vectors, some at once.

   Where the processor multiplies bytes (VNNI), the vectors that INT8 and INT4 are multiplied with
   are rounded to 15 bits for each 64 numbers, which loses less than bfloat16 does. Two products of
   bytes then take the place of one of floats, and no level need be made a float before. */

#pragma once

#include "rows.h"

#if defined __AVX512VNNI__ || defined __AVXVNNI__
#include <immintrin.h>
#endif

enum { AHEAD = 4096 }; /* bytes that are fetched before they are needed; memory is slow to begin */
enum { FEW = 4 };      /* vectors at most that are multiplied at once */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* --- vectors ------------------------------------------------------------------------------- */

/* Vectors that a matrix is multiplied with, one a token. The rest is for INT8 and INT4. */
typedef struct {
    const float *numbers;
    int8_t *high, *low; /* a number is, rounded, `step * (128 high + low)` */
    float *steps;       /* one a step */
    float *sums;        /* of the numbers of a group */
    int64_t width;      /* numbers from one vector to the next */
} Input;

/* The input from a vector on. */
static inline Input from_vector(Input x, int64_t vector)
{
    int64_t at = vector * x.width;
    x.numbers += at, x.high += at, x.low += at, x.steps += at / STEP, x.sums += at / GROUP;
    return x;
}

#if defined __AVX512VNNI__ || defined __AVXVNNI__

typedef int8_t bytes __attribute__((vector_size(LANES)));
typedef struct {
    ints high, low;
} Parts;

/* For each lane, the sum and the products of its word's bytes, unsigned, with four others. */
static inline ints multiplied(ints sum, ints words, const int8_t *with)
{
    int32_t four;
    memcpy(&four, with, sizeof four);
#ifdef __AVX512VNNI__
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)words, _mm512_set1_epi32(four));
#else
    __m256i sums[2], parts[2];
    memcpy(sums, &sum, sizeof sums), memcpy(parts, &words, sizeof parts);
    for (int i = 0; i < 2; i++)
        sums[i] = _mm256_dpbusd_avx_epi32(sums[i], parts[i], _mm256_set1_epi32(four));
    memcpy(&sum, sums, sizeof sum);
    return sum;
#endif
}

/* Adds the products of each lane's four levels with a vector's numbers from `at` on. */
static inline void add_products(Parts *sum, ints levels, Input x, int64_t at)
{
    sum->high = multiplied(sum->high, levels, x.high + at);
    sum->low = multiplied(sum->low, levels, x.low + at);
}

static inline lanes value_of(Parts sum, float step)
{
    return step * __builtin_convertvector((sum.high << 7) + sum.low, lanes);
}

/* Computes all the rest from a vector's numbers; an infinity or NaN makes its step one. */
static void complete(Input x)
{
    for (int64_t step = 0; step < x.width / STEP; step++) {
        ints most = {0};
        for (int64_t i = step * STEP; i < (step + 1) * STEP; i += LANES) {
            ints size = (ints)load(x.numbers + i) & 0x7fffffff; /* has the order of the number */
            ints larger = size > most;
            most = (size & larger) | (most & ~larger);
        }
        for (int i = 1; i < LANES; i++)
            most[0] = most[i] > most[0] ? most[i] : most[0];
        float largest = ((lanes)most)[0], levels = 127 * 128;
        float inverse = largest > 1e-30f ? levels / largest : 0.0f;
        x.steps[step] = largest / levels;
        for (int64_t group = 2 * step; group < 2 * (step + 1); group++) {
            ints sum = {0};
            for (int64_t i = group * GROUP; i < (group + 1) * GROUP; i += LANES) {
                lanes shifted = load(x.numbers + i) * inverse + 12582912.0f; /* to the nearest */
                ints level = (ints)shifted - 0x4b400000, high = (level + 64) >> 7;
                bytes coarse = __builtin_convertvector(high, bytes);
                bytes fine = __builtin_convertvector(level - (high << 7), bytes);
                memcpy(x.high + i, &coarse, sizeof coarse);
                memcpy(x.low + i, &fine, sizeof fine);
                sum += level;
            }
            x.sums[group] = x.steps[step] * total(__builtin_convertvector(sum, lanes));
        }
    }
}

#else

typedef lanes Parts;

static inline void add_products(Parts *sum, ints levels, Input x, int64_t at)
{
    for (int k = 0; k < 4; k++)
        *sum += __builtin_convertvector(levels >> 8 * k & 255, lanes) * x.numbers[at + k];
}

static inline lanes value_of(Parts sum, float step) { return (void)step, sum; }

static void complete(Input x)
{
    for (int64_t group = 0; group < x.width / GROUP; group++) {
        const float *numbers = x.numbers + group * GROUP;
        x.sums[group] = total(load(numbers) + load(numbers + LANES));
    }
}

#endif

/* --- products ------------------------------------------------------------------------------ */

static inline ints load_words(const uint8_t *from)
{
    ints out;
    memcpy(&out, from, sizeof out);
    return out;
}

static inline lanes low_half(ints words) { return (lanes)(words << 16); }
static inline lanes high_half(ints words) { return (lanes)(words & (int32_t)0xffff0000); }

/* Each product below is of one band with the first `count` vectors. For each of them it takes the
   same steps in the same order, whatever `count` is. */

ALWAYS_INLINE void dot_bf16(const uint8_t *band, Input x, const int count, lanes *out)
{
    lanes sums[FEW][4] = {0};
    for (int64_t i = 0; i < x.width; i += 4, band += 128) {
        __builtin_prefetch(band + AHEAD);
        __builtin_prefetch(band + AHEAD + 64);
        ints first = load_words(band), second = load_words(band + 64);
        for (int v = 0; v < count; v++) {
            const float *own = x.numbers + v * x.width + i;
            sums[v][0] += low_half(first) * own[0];
            sums[v][1] += high_half(first) * own[1];
            sums[v][2] += low_half(second) * own[2];
            sums[v][3] += high_half(second) * own[3];
        }
    }
    for (int v = 0; v < count; v++)
        out[v] = (sums[v][0] + sums[v][1]) + (sums[v][2] + sums[v][3]);
}

ALWAYS_INLINE void dot_int8(const uint8_t *band, const uint16_t *scales, Input x, const int count,
                            lanes *out)
{
    lanes sums[FEW] = {0};
    int64_t steps = x.width / STEP;
    for (int64_t step = 0; step < steps; step++, scales += LANES) {
        Parts parts[FEW] = {0};
        for (int64_t i = step * STEP; i < (step + 1) * STEP; i += 4, band += 64) {
            __builtin_prefetch(band + AHEAD);
            ints levels = load_words(band);
            for (int v = 0; v < count; v++)
                add_products(&parts[v], levels, x, v * x.width + i);
        }
        lanes scale;
        for (int i = 0; i < LANES; i++)
            scale[i] = from_bf16(scales[i]);
        for (int v = 0; v < count; v++) {
            int64_t at = v * steps + step;
            float sum = x.sums[2 * at] + x.sums[2 * at + 1];
            sums[v] += scale * (value_of(parts[v], x.steps[at]) - 128.0f * sum);
        }
    }
    for (int v = 0; v < count; v++)
        out[v] = sums[v];
}

ALWAYS_INLINE void dot_int4(const uint8_t *band, Input x, const int count, lanes *out)
{
    lanes sums[FEW] = {0};
    int64_t groups = x.width / GROUP;
    const Int4 *at = (const Int4 *)band;
    for (int64_t group = 0; group < groups; group++, at++) {
        Parts parts[FEW] = {0};
        __builtin_prefetch((const uint8_t *)at + AHEAD);
        for (int j = 0; j < GROUP / 8; j++) {
            __builtin_prefetch((const uint8_t *)at->levels[j] + AHEAD);
            ints words = load_words(at->levels[j][0]);
            ints even = words & 0x0f0f0f0f, odd = words >> 4 & 0x0f0f0f0f;
            for (int v = 0; v < count; v++) {
                int64_t i = v * x.width + group * GROUP + 8 * j;
                add_products(&parts[v], even, x, i);
                add_products(&parts[v], odd, x, i + 4);
            }
        }
        ints scales = load_words((const uint8_t *)at->scales);
        for (int v = 0; v < count; v++) {
            int64_t i = v * groups + group;
            sums[v] += low_half(scales) * value_of(parts[v], x.steps[i / 2]);
            sums[v] += high_half(scales) * x.sums[i];
        }
    }
    for (int v = 0; v < count; v++)
        out[v] = sums[v];
}
