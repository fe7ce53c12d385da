/* Products of packed panels with up to MAX_VECTORS vectors at once.

   Where the processor has byte dot products (VNNI), activations that meet INT8 or INT4 weights are
   quantized to 15 bits per 64 values, which loses less than bfloat16 does. Two byte products then
   replace one float product, and codes need not be converted to float first. */

#pragma once

#include "packing.h"

#if defined __AVX512VNNI__ || defined __AVXVNNI__
#include <immintrin.h>
#endif

enum { PREFETCH_BYTES = 4096 }; /* prefetch distance, which hides the latency of memory */
enum { MAX_VECTORS = 4 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* --- activations --------------------------------------------------------------------------- */

/* Input vectors of a matrix product, one per token. All but `values` serve INT8 and INT4. */
typedef struct {
    const float *values;
    int8_t *q_high, *q_low; /* value = scale * (128 * q_high + q_low), rounded */
    float *scales;          /* one per INT8_GROUP */
    float *group_sums;      /* sum of the values of each INT4_GROUP */
    int64_t stride;         /* values from one vector to the next */
} Activations;

/* The activations from a vector onwards. */
static inline Activations activations_from(Activations x, int64_t vector)
{
    int64_t offset = vector * x.stride;
    x.values += offset, x.q_high += offset, x.q_low += offset;
    x.scales += offset / INT8_GROUP, x.group_sums += offset / INT4_GROUP;
    return x;
}

#if defined __AVX512VNNI__ || defined __AVXVNNI__

typedef int8_t i8x16 __attribute__((vector_size(LANES)));
typedef struct {
    i32x16 high, low;
} DotAccumulator;

/* sum + dot product, in each lane, of its four unsigned codes with four signed values. */
static inline i32x16 dot_u8s8(i32x16 sum, i32x16 codes, const int8_t *values)
{
    int32_t four;
    memcpy(&four, values, sizeof four);
#ifdef __AVX512VNNI__
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, _mm512_set1_epi32(four));
#else
    __m256i sums[2], parts[2];
    memcpy(sums, &sum, sizeof sums), memcpy(parts, &codes, sizeof parts);
    for (int i = 0; i < 2; i++)
        sums[i] = _mm256_dpbusd_avx_epi32(sums[i], parts[i], _mm256_set1_epi32(four));
    memcpy(&sum, sums, sizeof sum);
    return sum;
#endif
}

/* Add the products of each lane's four codes with the activations from `offset`. */
static inline void accumulate_dot(DotAccumulator *sum, i32x16 codes, Activations x, int64_t offset)
{
    sum->high = dot_u8s8(sum->high, codes, x.q_high + offset);
    sum->low = dot_u8s8(sum->low, codes, x.q_low + offset);
}

static inline f32x16 dot_value(DotAccumulator sum, float step)
{
    return step * __builtin_convertvector((sum.high << 7) + sum.low, f32x16);
}

/* Fill in the quantized form of one vector; an infinity or NaN makes its scale one too. */
static void quantize_activations(Activations x)
{
    for (int64_t group = 0; group < x.stride / INT8_GROUP; group++) {
        i32x16 magnitudes = {0};
        for (int64_t i = group * INT8_GROUP; i < (group + 1) * INT8_GROUP; i += LANES) {
            /* the bits of a positive float have its order */
            i32x16 magnitude = (i32x16)load_f32x16(x.values + i) & 0x7fffffff;
            i32x16 larger = magnitude > magnitudes;
            magnitudes = (magnitude & larger) | (magnitudes & ~larger);
        }
        for (int i = 1; i < LANES; i++)
            magnitudes[0] = magnitudes[i] > magnitudes[0] ? magnitudes[i] : magnitudes[0];
        float largest = ((f32x16)magnitudes)[0], max_code = 127 * 128;
        float inverse = largest > 1e-30f ? max_code / largest : 0.0f;
        x.scales[group] = largest / max_code;
        for (int64_t half_group = 2 * group; half_group < 2 * (group + 1); half_group++) {
            i32x16 sum = {0};
            for (int64_t i = half_group * INT4_GROUP; i < (half_group + 1) * INT4_GROUP;
                 i += LANES) {
                /* adding 1.5 * 2^23 rounds to the nearest integer */
                f32x16 shifted = load_f32x16(x.values + i) * inverse + 12582912.0f;
                i32x16 codes = (i32x16)shifted - 0x4b400000, high = (codes + 64) >> 7;
                i8x16 high_bytes = __builtin_convertvector(high, i8x16);
                i8x16 low_bytes = __builtin_convertvector(codes - (high << 7), i8x16);
                memcpy(x.q_high + i, &high_bytes, sizeof high_bytes);
                memcpy(x.q_low + i, &low_bytes, sizeof low_bytes);
                sum += codes;
            }
            x.group_sums[half_group] =
                x.scales[group] * horizontal_sum(__builtin_convertvector(sum, f32x16));
        }
    }
}

#else

typedef f32x16 DotAccumulator;

static inline void accumulate_dot(DotAccumulator *sum, i32x16 codes, Activations x, int64_t offset)
{
    for (int k = 0; k < 4; k++)
        *sum += __builtin_convertvector(codes >> 8 * k & 255, f32x16) * x.values[offset + k];
}

static inline f32x16 dot_value(DotAccumulator sum, float step) { return (void)step, sum; }

static void quantize_activations(Activations x)
{
    for (int64_t half_group = 0; half_group < x.stride / INT4_GROUP; half_group++) {
        const float *values = x.values + half_group * INT4_GROUP;
        x.group_sums[half_group] =
            horizontal_sum(load_f32x16(values) + load_f32x16(values + LANES));
    }
}

#endif

/* --- products ------------------------------------------------------------------------------ */

static inline i32x16 load_i32x16(const uint8_t *from)
{
    i32x16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

static inline f32x16 bf16_low_to_f32(i32x16 words) { return (f32x16)(words << 16); }
static inline f32x16 bf16_high_to_f32(i32x16 words)
{
    return (f32x16)(words & (int32_t)0xffff0000);
}

/* Each function multiplies one panel with the first `count` vectors. The operations on a vector and
   their order do not depend on `count`. */

ALWAYS_INLINE void dot_bf16(const uint8_t *panel, Activations x, const int count, f32x16 *out)
{
    f32x16 sums[MAX_VECTORS][4] = {0};
    for (int64_t i = 0; i < x.stride; i += 4, panel += 128) {
        __builtin_prefetch(panel + PREFETCH_BYTES);
        __builtin_prefetch(panel + PREFETCH_BYTES + 64);
        i32x16 first = load_i32x16(panel), second = load_i32x16(panel + 64);
        for (int v = 0; v < count; v++) {
            const float *values = x.values + v * x.stride + i;
            sums[v][0] += bf16_low_to_f32(first) * values[0];
            sums[v][1] += bf16_high_to_f32(first) * values[1];
            sums[v][2] += bf16_low_to_f32(second) * values[2];
            sums[v][3] += bf16_high_to_f32(second) * values[3];
        }
    }
    for (int v = 0; v < count; v++)
        out[v] = (sums[v][0] + sums[v][1]) + (sums[v][2] + sums[v][3]);
}

ALWAYS_INLINE void dot_int8(const uint8_t *panel, const uint16_t *scales, Activations x,
                            const int count, f32x16 *out)
{
    f32x16 sums[MAX_VECTORS] = {0};
    int64_t groups = x.stride / INT8_GROUP;
    for (int64_t group = 0; group < groups; group++, scales += LANES) {
        DotAccumulator dots[MAX_VECTORS] = {0};
        for (int64_t i = group * INT8_GROUP; i < (group + 1) * INT8_GROUP; i += 4, panel += 64) {
            __builtin_prefetch(panel + PREFETCH_BYTES);
            i32x16 codes = load_i32x16(panel);
            for (int v = 0; v < count; v++)
                accumulate_dot(&dots[v], codes, x, v * x.stride + i);
        }
        f32x16 scale;
        for (int i = 0; i < LANES; i++)
            scale[i] = bf16_to_float(scales[i]);
        for (int v = 0; v < count; v++) {
            int64_t at = v * groups + group;
            float sum = x.group_sums[2 * at] + x.group_sums[2 * at + 1];
            sums[v] += scale * (dot_value(dots[v], x.scales[at]) - 128.0f * sum);
        }
    }
    for (int v = 0; v < count; v++)
        out[v] = sums[v];
}

ALWAYS_INLINE void dot_int4(const uint8_t *panel, Activations x, const int count, f32x16 *out)
{
    f32x16 sums[MAX_VECTORS] = {0};
    int64_t groups = x.stride / INT4_GROUP;
    const Int4Group *packed = (const Int4Group *)panel;
    for (int64_t group = 0; group < groups; group++, packed++) {
        DotAccumulator dots[MAX_VECTORS] = {0};
        __builtin_prefetch((const uint8_t *)packed + PREFETCH_BYTES);
        for (int j = 0; j < INT4_GROUP / 8; j++) {
            __builtin_prefetch((const uint8_t *)packed->codes[j] + PREFETCH_BYTES);
            i32x16 codes = load_i32x16(packed->codes[j][0]);
            i32x16 even = codes & 0x0f0f0f0f, odd = codes >> 4 & 0x0f0f0f0f;
            for (int v = 0; v < count; v++) {
                int64_t i = v * x.stride + group * INT4_GROUP + 8 * j;
                accumulate_dot(&dots[v], even, x, i);
                accumulate_dot(&dots[v], odd, x, i + 4);
            }
        }
        i32x16 scale_min = load_i32x16((const uint8_t *)packed->scale_min);
        for (int v = 0; v < count; v++) {
            int64_t i = v * groups + group;
            sums[v] += bf16_low_to_f32(scale_min) * dot_value(dots[v], x.scales[i / 2]);
            sums[v] += bf16_high_to_f32(scale_min) * x.group_sums[i];
        }
    }
    for (int v = 0; v < count; v++)
        out[v] = sums[v];
}
