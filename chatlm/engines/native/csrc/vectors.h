/* SIMD helpers. Loops over vectors of 16 floats are compiled to whatever the processor has.

   ELEMENT_IS_FLOAT32 at compile time makes `element_t`, the type of the KV cache, float instead of
   bfloat16. */

#pragma once

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined __x86_64__
#include <immintrin.h>
#endif

enum { LANES = 16 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(LANES * 4)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x16 __attribute__((vector_size(LANES * 4)));
typedef int8_t i8x16 __attribute__((vector_size(LANES)));

#ifdef ELEMENT_IS_FLOAT32
typedef float element_t;
#else
typedef uint16_t element_t;
#endif

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* --- elements and vectors ------------------------------------------------------------------ */

static inline f32x16 load_f32x16(const float *from)
{
    f32x16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

/* Add the vector's four quarters. */
static inline f32x4 fold_to_f32x4(f32x16 v)
{
    union {
        f32x16 whole;
        f32x4 part[4];
    } both = {.whole = v}; /* a copy, so that `v` can stay in a register */
    return (both.part[0] + both.part[2]) + (both.part[1] + both.part[3]);
}

static inline i32x16 load_i32x16(const void *from)
{
    i32x16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

/* 16 signed bytes as integers. */
static inline i32x16 load_i8_as_i32(const void *from)
{
#ifdef __AVX512F__
    return (i32x16)_mm512_cvtepi8_epi32(_mm_loadu_si128(from));
#else
    typedef int16_t i16x16 __attribute__((vector_size(LANES * 2)));
    i8x16 bytes; /* widened step by step: GCC 12 converts all at once element by element */
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, i16x16), i32x16);
#endif
}

/* 16 signed bytes as floats. */
static inline f32x16 load_i8_as_f32(const void *from)
{
    return __builtin_convertvector(load_i8_as_i32(from), f32x16);
}

static inline float horizontal_sum(f32x16 v)
{
    f32x4 four = fold_to_f32x4(v);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

static inline float bf16_to_float(uint16_t value)
{
    uint32_t wide = (uint32_t)value << 16;
    float out;
    memcpy(&out, &wide, sizeof out);
    return out;
}

static inline uint16_t float_to_bf16(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if (value != value)
        return 0x7fc0;
    return (uint16_t)((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

/* Round to bfloat16, but keep 32 bits; an infinity stays, and a NaN stays one. */
static inline f32x16 round_to_bf16(f32x16 values)
{
    i32x16 bits = (i32x16)values, rounded = bits + 0x7fff + (bits >> 16 & 1);
    i32x16 is_nan = (bits & 0x7fffffff) > 0x7f800000;
    return (f32x16)(((rounded & ~is_nan) | (0x7fc00000 & is_nan)) & (int32_t)0xffff0000);
}

static inline f32x16 bf16_low_to_f32(i32x16 words) { return (f32x16)(words << 16); }
static inline f32x16 bf16_high_to_f32(i32x16 words)
{
    return (f32x16)(words & (int32_t)0xffff0000);
}

static inline float f16_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, bits;
    float fraction = (float)(half & 0x3ff) * 0x1p-24f, value;
    if (exponent == 0)
        memcpy(&bits, &fraction, sizeof bits);
    else
        bits = (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23)
               | (uint32_t)(half & 0x3ff) << 13;
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Round to float16; values beyond its range become infinite. */
static inline uint16_t float_to_f16(float value)
{
    float magnitude = fabsf(value);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (!(magnitude < 65520.0f))
        return sign | (value != value ? 0x7e00 : 0x7c00);
    if (magnitude < 0x1p-14f) /* subnormal: a multiple of 2^-24 */
        return sign | (uint16_t)rintf(magnitude * 0x1p24f);
    bits &= 0x7fffffff;
    return sign | (uint16_t)((bits + 0xfff + (bits >> 13 & 1) - (112 << 23)) >> 13);
}

/* Transpose 16 vectors of 16 words. */
static inline void transpose_words(i32x16 rows[LANES])
{
    const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 4
    for (int distance = LANES / 2; distance; distance /= 2) {
        /* of a pair of vectors, the lanes of the lower half of each group, or of the upper */
        i32x16 is_upper = (lanes & distance) != 0;
        i32x16 lower = lanes + (is_upper & (LANES - distance));
        i32x16 upper = lanes + (~is_upper & distance) + (is_upper & LANES);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & distance)
                continue;
            i32x16 first = rows[i], second = rows[i + distance];
            rows[i] = __builtin_shuffle(first, second, lower);
            rows[i + distance] = __builtin_shuffle(first, second, upper);
        }
    }
}

/* 16 float16 values as floats. */
static inline f32x16 load_f16_as_f32(const void *from)
{
#if defined __AVX512F__
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined __F16C__
    union {
        __m256 part[2];
        f32x16 whole;
    } both;
    both.part[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
    both.part[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from + 1));
    return both.whole;
#else
    uint16_t halves[LANES];
    float wide[LANES];
    memcpy(halves, from, sizeof halves);
    for (int i = 0; i < LANES; i++)
        wide[i] = f16_to_float(halves[i]);
    return load_f32x16(wide);
#endif
}

#ifdef ELEMENT_IS_FLOAT32
static inline float element_to_float(element_t value) { return value; }
static inline element_t float_to_element(float value) { return value; }
#else
static inline float element_to_float(element_t value) { return bf16_to_float(value); }
static inline element_t float_to_element(float value) { return float_to_bf16(value); }
#endif

static inline f32x16 load_elements(const element_t *from)
{
    float wide[LANES];
    for (int i = 0; i < LANES; i++)
        wide[i] = element_to_float(from[i]);
    return load_f32x16(wide);
}

/* e^value for values up to 88, within 2 ulp; written so that loops over it vectorize. */
static inline float expf_approx(float value)
{
    value = value < -87.0f ? -87.0f : value;
    value = value > 88.0f ? 88.0f : value;
    float shifted = value * 1.44269504f + 12582912.0f; /* rounds to the nearest power of two */
    float power = shifted - 12582912.0f;
    float remainder = value - power * 0.693359375f + power * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * remainder + 1.3981999507e-3f;
    sum = sum * remainder + 8.3334519073e-3f;
    sum = sum * remainder + 4.1665795894e-2f;
    sum = sum * remainder + 1.6666665459e-1f;
    sum = sum * remainder + 5.0000001201e-1f;
    sum = sum * remainder * remainder + remainder + 1.0f;
    int32_t scale = ((int32_t)power + 127) << 23;
    float factor;
    memcpy(&factor, &scale, sizeof factor);
    return sum * factor;
}

/* tanh with an absolute error below 1e-6. */
static inline float tanhf_approx(float value)
{
    return 1.0f - 2.0f / (expf_approx(2.0f * value) + 1.0f);
}

/* x * sigmoid(x). */
static inline float silu(float x) { return x / (1.0f + expf_approx(-x)); }

/* GELU in its approximation by tanh. */
static inline float gelu_tanh(float x)
{
    float twice = 2.0f * 0.7978845608f * (x + 0.044715f * x * x * x);
    return x / (1.0f + expf_approx(-twice));
}

enum { NO_GATE, GATE_SILU, GATE_GELU_TANH };

/* gate = activation(gate) * up for `count` values. */
static inline void apply_activation(int64_t kind, float *gate, const float *up, int64_t count)
{
    if (kind == GATE_SILU)
        for (int64_t i = 0; i < count; i++)
            gate[i] = silu(gate[i]) * up[i];
    else
        for (int64_t i = 0; i < count; i++)
            gate[i] = gelu_tanh(gate[i]) * up[i];
}
