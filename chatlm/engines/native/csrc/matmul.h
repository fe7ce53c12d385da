/* Products of packed panels with up to MAX_VECTORS vectors at once.

   Where the processor has byte dot products (VNNI), activations that meet quantized weights are
   quantized to 15 bits per 64 values, which loses less than bfloat16 does. Two byte products then
   replace one float product, and codes need not be converted to float first. */

#pragma once

#include "formats.h"

enum { PREFETCH_BYTES = 4096 }; /* prefetch distance, which hides the latency of memory */
enum { MAX_VECTORS = 4 };

/* --- activations --------------------------------------------------------------------------- */

/* Input vectors of a matrix product, one per token. All but `values` serve
   quantized matrices. */
typedef struct {
    const float *values;
    int8_t *q_high, *q_low; /* value = scale * (128 * q_high + q_low), rounded */
    float *scales;          /* one per ACTIVATION_GROUP */
    float *sums_of_16, *sums_of_32; /* sums of the values of so many columns */
    int64_t stride;         /* values from one vector to the next */
} Activations;

/* The activations from a vector onwards. */
static inline Activations activations_from(Activations x, int64_t vector)
{
    int64_t offset = vector * x.stride;
    x.values += offset, x.q_high += offset, x.q_low += offset;
    x.scales += offset / ACTIVATION_GROUP;
    x.sums_of_16 += offset / 16, x.sums_of_32 += offset / 32;
    return x;
}

static inline void add_up_sums(Activations x)
{
    for (int64_t i = 0; i < x.stride / 32; i++)
        x.sums_of_32[i] = x.sums_of_16[2 * i] + x.sums_of_16[2 * i + 1];
}

#if defined __AVX512VNNI__ || defined __AVXVNNI__

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
    for (int64_t group = 0; group < x.stride / ACTIVATION_GROUP; group++) {
        i32x16 magnitudes = {0};
        for (int64_t i = group * ACTIVATION_GROUP; i < (group + 1) * ACTIVATION_GROUP; i += LANES)
            magnitudes = larger_magnitudes(magnitudes, load_f32x16(x.values + i));
        float inverse = activation_scale(magnitudes, &x.scales[group]);
        for (int64_t i = group * ACTIVATION_GROUP; i < (group + 1) * ACTIVATION_GROUP; i += LANES) {
            i32x16 codes = round_to_codes(load_f32x16(x.values + i) * inverse);
            i32x16 high = (codes + 64) >> 7;
            i8x16 high_bytes = __builtin_convertvector(high, i8x16);
            i8x16 low_bytes = __builtin_convertvector(codes - (high << 7), i8x16);
            memcpy(x.q_high + i, &high_bytes, sizeof high_bytes);
            memcpy(x.q_low + i, &low_bytes, sizeof low_bytes);
            x.sums_of_16[i / 16] =
                x.scales[group] * horizontal_sum(__builtin_convertvector(codes, f32x16));
        }
    }
    add_up_sums(x);
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
    for (int64_t i = 0; i < x.stride; i += LANES)
        x.sums_of_16[i / 16] = horizontal_sum(load_f32x16(x.values + i));
    add_up_sums(x);
}

#endif

/* --- products ------------------------------------------------------------------------------ */

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

/* F16 and F32, whose values of a column are next to each other. */
ALWAYS_INLINE void dot_columns(const bool is_f32, const uint8_t *panel, Activations x,
                               const int count, f32x16 *out)
{
    f32x16 sums[MAX_VECTORS][4] = {0};
    const int column_bytes = is_f32 ? 4 * LANES : 2 * LANES;
    for (int64_t i = 0; i < x.stride; i += 4) {
        for (int k = 0; k < 4; k++, panel += column_bytes) {
            __builtin_prefetch(panel + PREFETCH_BYTES);
            f32x16 weights = is_f32 ? load_f32x16((const float *)panel) : load_f16_as_f32(panel);
            for (int v = 0; v < count; v++)
                sums[v][k] += weights * x.values[v * x.stride + i + k];
        }
    }
    for (int v = 0; v < count; v++)
        out[v] = (sums[v][0] + sums[v][1]) + (sums[v][2] + sums[v][3]);
}

ALWAYS_INLINE void dot_quantized(const Format f, const uint8_t *block, Activations x,
                                 const int count, f32x16 *out)
{
    const int slab_groups = SLAB / f.group, group_quads = f.group / 4;
    const float *group_sums = f.group == 16 ? x.sums_of_16 : x.sums_of_32;
    /* of the whole panel, and of the current block if its format is two-level */
    f32x16 sums[MAX_VECTORS] = {0}, scaled[MAX_VECTORS] = {0}, minimums[MAX_VECTORS] = {0};
    for (int64_t column = 0; column < x.stride; column += block_columns(f)) {
        for (int at = 0; at < codes_offset(f); at += 64)
            __builtin_prefetch(block + at + PREFETCH_BYTES);
        for (int s = 0; s < block_columns(f) / SLAB; s++) {
            const uint8_t *slab = block + codes_offset(f) + s * slab_bytes(f);
            i32x16 quads[SLAB_QUADS];
            for (int at = 0; at < slab_bytes(f); at += 64)
                __builtin_prefetch(slab + at + PREFETCH_BYTES);
            unpack_slab(f, slab, quads);
            for (int g = 0; g < slab_groups; g++) {
                DotAccumulator dots[MAX_VECTORS] = {0};
                int64_t first = column + s * SLAB + g * f.group;
                f32x16 scale = group_scale(f, block, s * slab_groups + g), minimum;
                if (f.has_minimums)
                    minimum = group_minimum(f, block, s * slab_groups + g);
                for (int q = 0; q < group_quads; q++)
                    for (int v = 0; v < count; v++)
                        accumulate_dot(&dots[v], quads[g * group_quads + q], x,
                                       v * x.stride + first + 4 * q);
                for (int v = 0; v < count; v++) {
                    int64_t at = v * x.stride + first;
                    float sum = group_sums[at / f.group];
                    f32x16 dot = dot_value(dots[v], x.scales[at / ACTIVATION_GROUP]);
                    if (f.has_minimums)
                        scaled[v] += scale * dot, minimums[v] += minimum * sum;
                    else
                        scaled[v] += scale * (dot - (float)f.zero * sum);
                }
            }
        }
        for (int v = 0; f.two_level && v < count; v++) {
            sums[v] += block_scale(block) * scaled[v];
            if (f.has_minimums)
                sums[v] += block_minimum(block) * minimums[v];
            scaled[v] = minimums[v] = (f32x16){0};
        }
        block += block_bytes(f);
    }
    for (int v = 0; v < count; v++)
        out[v] = f.two_level ? sums[v] : scaled[v] + minimums[v];
}

ALWAYS_INLINE void dot_panel(int64_t format, const uint8_t *panel, Activations x, const int count,
                             f32x16 *out)
{
    if (format == BF16)
        dot_bf16(panel, x, count, out);
    else if (format == F16)
        dot_columns(false, panel, x, count, out);
    else if (format == F32)
        dot_columns(true, panel, x, count, out);
    else
        FOR_QUANTIZED_FORMAT(format, dot_quantized(FORMAT, panel, x, count, out))
}
