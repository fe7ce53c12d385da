/* Numbers, and rows of them packed in one of three formats: how they are made and multiplied.

   A row is read in steps of 64 numbers, widened to float and added to four vectors of 16, which
   the compiler of GCC or Clang maps to what the processor has.

   NUMBER_IS_FLOAT32 at compile time makes `number`, the format of the embedding, of the cache and
   of weights that are to be packed, float instead of bfloat16. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { LANES = 16, STEP = 64, GROUP = 32 };
enum { BF16, INT8, INT4 };
enum { AHEAD = 4096 }; /* bytes that are fetched before they are needed; memory is slow to begin */

typedef float lanes __attribute__((vector_size(LANES * 4)));
typedef float lanes4 __attribute__((vector_size(16)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));

#ifdef NUMBER_IS_FLOAT32
typedef float number;
#else
typedef uint16_t number;
#endif

static int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* --- numbers ------------------------------------------------------------------------------- */

static inline lanes load(const float *from)
{
    lanes out;
    memcpy(&out, from, sizeof out);
    return out;
}

/* Four numbers with the same sum. */
static inline lanes4 folded(lanes v)
{
    union {
        lanes whole;
        lanes4 part[4];
    } both = {.whole = v}; /* a copy, so that the compiler can keep `v` in a register */
    return (both.part[0] + both.part[2]) + (both.part[1] + both.part[3]);
}

static inline float total(lanes v)
{
    lanes4 four = folded(v);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

static inline float from_bf16(uint16_t value)
{
    uint32_t wide = (uint32_t)value << 16;
    float out;
    memcpy(&out, &wide, sizeof out);
    return out;
}

static inline uint16_t to_bf16(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if (value != value)
        return 0x7fc0;
    return (uint16_t)((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

#ifdef NUMBER_IS_FLOAT32
static inline float to_float(number value) { return value; }
static inline number to_number(float value) { return value; }
#else
static inline float to_float(number value) { return from_bf16(value); }
static inline number to_number(float value) { return to_bf16(value); }
#endif

static inline lanes widened(const number *from)
{
    float wide[LANES];
    for (int i = 0; i < LANES; i++)
        wide[i] = to_float(from[i]);
    return load(wide);
}

/* e to the power of a value up to 88, within two units in the last place; loops of it vectorise. */
static inline float exponential(float value)
{
    value = value < -87.0f ? -87.0f : value;
    value = value > 88.0f ? 88.0f : value;
    float shifted = value * 1.44269504f + 12582912.0f; /* the nearest whole power of two */
    float power = shifted - 12582912.0f;
    float rest = value - power * 0.693359375f + power * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    int32_t scale = ((int32_t)power + 127) << 23;
    float factor;
    memcpy(&factor, &scale, sizeof factor);
    return sum * factor;
}

/* --- formats ------------------------------------------------------------------------------- */

/* A step of INT4: two groups of 32 numbers. A number of group g is `low[g] + step[g] * level`. */
typedef struct {
    uint16_t step[2], low[2];  /* bfloat16 */
    uint16_t levels[STEP / 4]; /* 0 to 15: of number i in the lowest bits, then of i + 16, … */
} Int4;

static int64_t step_bytes(int64_t format)
{
    return format == BF16 ? 2 * STEP : format == INT8 ? STEP : (int64_t)sizeof(Int4);
}

int64_t row_bytes(int64_t format, int64_t width) { return width / STEP * step_bytes(format); }

/* A step of INT8: 64 numbers from -127 to 127, times a scale (bfloat16) that stands elsewhere. */
static void pack_int8(const float *row, uint8_t *out, uint16_t *scale)
{
    float most = 0.0f;
    for (int i = 0; i < STEP; i++)
        most = fabsf(row[i]) > most ? fabsf(row[i]) : most;
    *scale = to_bf16(most / 127.0f);
    float step = from_bf16(*scale);
    for (int i = 0; i < STEP; i++) {
        float level = step > 0.0f ? rintf(row[i] / step) : 0.0f;
        out[i] = (uint8_t)(int8_t)(level < -127.0f ? -127.0f : level > 127.0f ? 127.0f : level);
    }
}

static void pack_int4(const float *row, Int4 *out)
{
    uint8_t levels[STEP];
    for (int g = 0; g < 2; g++, row += GROUP) {
        float low = row[0], high = row[0];
        for (int i = 1; i < GROUP; i++) {
            low = row[i] < low ? row[i] : low;
            high = row[i] > high ? row[i] : high;
        }
        out->low[g] = to_bf16(low), low = from_bf16(out->low[g]);
        out->step[g] = to_bf16((high - low) / 15.0f);
        float step = from_bf16(out->step[g]);
        for (int i = 0; i < GROUP; i++) {
            float level = step > 0.0f ? rintf((row[i] - low) / step) : 0.0f;
            levels[g * GROUP + i] = (uint8_t)(level < 0.0f ? 0.0f : level > 15.0f ? 15.0f : level);
        }
    }
    for (int i = 0; i < LANES; i++)
        out->levels[i] = (uint16_t)(levels[i] | levels[16 + i] << 4 | levels[32 + i] << 8
                                    | levels[48 + i] << 12);
}

/* Packs (count, columns) numbers into rows of `width`; `scales` is for INT8, one a step.
   0, or -1 without memory. */
int pack(const number *from, int64_t count, int64_t columns, int64_t format, int64_t width,
         uint8_t *rows, uint16_t *scales)
{
    float *row = calloc((size_t)width, sizeof *row);
    if (!row)
        return -1;
    for (int64_t r = 0; r < count; r++, rows += row_bytes(format, width)) {
        for (int64_t i = 0; i < columns; i++)
            row[i] = to_float(from[r * columns + i]);
        if (format == INT8)
            for (int64_t i = 0; i < width; i += STEP)
                pack_int8(row + i, rows + i, scales++);
        else if (format == INT4)
            for (int64_t i = 0; i < width; i += STEP)
                pack_int4(row + i, (Int4 *)(rows + row_bytes(INT4, i)));
        else
            for (int64_t i = 0; i < width; i++)
                ((uint16_t *)rows)[i] = to_bf16(row[i]);
    }
    free(row);
    return 0;
}

/* --- products ------------------------------------------------------------------------------ */

static inline void widen_bf16(const uint8_t *from, float *to)
{
    for (int i = 0; i < STEP; i++)
        to[i] = from_bf16(((const uint16_t *)from)[i]);
}

static inline lanes widened_int8(const uint8_t *from)
{
#ifdef __AVX512F__ /* of a loop GCC makes twice as many instructions */
    __m128i narrow = _mm_loadu_si128((const __m128i *)from);
    return (lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(narrow));
#else
    float wide[LANES];
    for (int i = 0; i < LANES; i++)
        wide[i] = (int8_t)from[i];
    return load(wide);
#endif
}

/* `low + step * level` for levels that stand in the lowest four bits. */
static inline lanes numbers_of(ints levels, float low, float step)
{
#ifdef __AVX512F__ /* a table of all 16 numbers takes fewer instructions for each */
    lanes table = low + step * (lanes){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (lanes)_mm512_permutexvar_ps((__m512i)levels, (__m512)table);
#else
    return low + step * __builtin_convertvector(levels & 15, lanes);
#endif
}

static inline void widen_int4(const Int4 *from, lanes *to)
{
    ints levels;
    for (int i = 0; i < LANES; i++)
        levels[i] = from->levels[i];
    for (int part = 0; part < STEP / LANES; part++) {
        int g = part * LANES / GROUP;
        to[part] = numbers_of(levels >> 4 * part, from_bf16(from->low[g]), from_bf16(from->step[g]));
    }
}

/* Each product below is of one row with `count` vectors that are `stride` floats apart. For each of
   them it takes the same steps in the same order, whatever `count` is. */

enum { FEW = 4 }; /* vectors at most */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE void dot_bf16(const uint8_t *row, const float *x, int64_t stride, int64_t width,
                            const int count, float *out)
{
    lanes sums[FEW][4] = {0};
    for (const float *end = x + width; x < end; x += STEP, row += 2 * STEP) {
        float wide[STEP];
        __builtin_prefetch(row + AHEAD);
        __builtin_prefetch(row + AHEAD + STEP);
        widen_bf16(row, wide);
        for (int v = 0; v < count; v++)
            for (int part = 0; part < 4; part++)
                sums[v][part] += load(wide + part * LANES) * load(x + v * stride + part * LANES);
    }
    for (int v = 0; v < count; v++)
        out[v] = total((sums[v][0] + sums[v][1]) + (sums[v][2] + sums[v][3]));
}

ALWAYS_INLINE void dot_int8(const uint8_t *row, const uint16_t *scale, const float *x,
                            int64_t stride, int64_t width, const int count, float *out)
{
    lanes sums[FEW] = {0};
    for (const float *end = x + width; x < end; x += STEP, row += STEP, scale++) {
        __builtin_prefetch(row + AHEAD);
        lanes wide[4];
        for (int part = 0; part < 4; part++)
            wide[part] = widened_int8(row + part * LANES);
        for (int v = 0; v < count; v++) {
            const float *own = x + v * stride;
            lanes step = wide[0] * load(own);
            step += wide[1] * load(own + 16);
            step += wide[2] * load(own + 32);
            step += wide[3] * load(own + 48);
            sums[v] += from_bf16(*scale) * step;
        }
    }
    for (int v = 0; v < count; v++)
        out[v] = total(sums[v]);
}

ALWAYS_INLINE void dot_int4(const uint8_t *row, const float *x, int64_t stride, int64_t width,
                            const int count, float *out)
{
    lanes sums[FEW][2] = {0};
    for (const float *end = x + width; x < end; x += STEP, row += sizeof(Int4)) {
        lanes wide[STEP / LANES];
        __builtin_prefetch(row + AHEAD);
        widen_int4((const Int4 *)row, wide);
        for (int v = 0; v < count; v++)
            for (int part = 0; part < STEP / LANES; part++)
                sums[v][part % 2] += wide[part] * load(x + v * stride + part * LANES);
    }
    for (int v = 0; v < count; v++)
        out[v] = total(sums[v][0] + sums[v][1]);
}
