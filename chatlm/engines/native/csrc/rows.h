/* Numbers, and rows of them packed in one of three formats.

   Rows are packed in bands of 16, one to each lane of a vector, so that no sum goes across lanes.

   NUMBER_IS_FLOAT32 at compile time makes `number`, the format of the embedding, of the cache and
   of weights that are to be packed, float instead of bfloat16. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, STEP = 64, GROUP = 32 };
enum { BF16, INT8, INT4 };

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

/* Rows of all formats have a multiple of STEP numbers; zeros stand behind the model's own.

   BF16: for each two columns, of each row of the band both numbers.
   INT8: for each four columns, of each row four levels from -127 to 127, plus 128. For each step
   of a band, its rows' scales (bfloat16) stand elsewhere.
   INT4: for each group of columns the following; number i of a row is `low + step * level`. */
typedef struct {
    uint16_t scales[LANES][2];           /* step and low, bfloat16 */
    uint8_t levels[GROUP / 8][LANES][4]; /* 0 to 15: of number 8j + k low, of 8j + 4 + k high bits */
} Int4;

/* On the average; rows of a band stand between each other. */
int64_t row_bytes(int64_t format, int64_t width)
{
    return format == BF16 ? 2 * width : format == INT8 ? width : width / GROUP * 20;
}

static void pack_int8(const float *row, int64_t lane, uint8_t *out, uint16_t *scale)
{
    float most = 0.0f;
    for (int i = 0; i < STEP; i++)
        most = fabsf(row[i]) > most ? fabsf(row[i]) : most;
    *scale = to_bf16(most / 127.0f);
    float step = from_bf16(*scale);
    for (int i = 0; i < STEP; i++) {
        float level = step > 0.0f ? rintf(row[i] / step) : 0.0f;
        level = level < -127.0f ? -127.0f : level > 127.0f ? 127.0f : level;
        out[(i / 4 * LANES + lane) * 4 + i % 4] = (uint8_t)(128 + (int)level);
    }
}

/* Rounds GROUP numbers with a step that is a part of what they span; returns the squared error. */
static float round_int4(const float *row, float span, int parts, float low, uint8_t *levels,
                        uint16_t *scale)
{
    *scale = to_bf16(span / (float)parts);
    float step = from_bf16(*scale), error = 0.0f;
    for (int i = 0; i < GROUP; i++) {
        float level = step > 0.0f ? rintf((row[i] - low) / step) : 0.0f;
        level = level < 0.0f ? 0.0f : level > 15.0f ? 15.0f : level;
        levels[i] = (uint8_t)level;
        error += (row[i] - low - step * level) * (row[i] - low - step * level);
    }
    return error;
}

/* The step is the fifteenth part of what the numbers span, but for those that had 4 bits before and
   do not span all of them. */
static void pack_int4(const float *row, int64_t lane, Int4 *out)
{
    float low = row[0], high = row[0];
    for (int i = 1; i < GROUP; i++) {
        low = row[i] < low ? row[i] : low;
        high = row[i] > high ? row[i] : high;
    }
    uint16_t *scales = out->scales[lane];
    uint8_t levels[GROUP];
    scales[1] = to_bf16(low), low = from_bf16(scales[1]);
    float span = high - low, exact = 1e-4f * span * span; /* what rounding to bfloat16 may cost */
    float error = round_int4(row, span, 15, low, levels, scales);
    for (int parts = 14; parts >= 8 && error > exact; parts--) {
        uint8_t other[GROUP];
        uint16_t scale;
        float its_error = round_int4(row, span, parts, low, other, &scale);
        if (8 * its_error < error)
            error = its_error, scales[0] = scale, memcpy(levels, other, sizeof other);
    }
    for (int j = 0; j < GROUP / 8; j++)
        for (int k = 0; k < 4; k++)
            out->levels[j][lane][k] = (uint8_t)(levels[8 * j + k] | levels[8 * j + 4 + k] << 4);
}

static void pack_bf16(const float *row, int64_t width, int64_t lane, uint16_t *out)
{
    for (int64_t i = 0; i < width; i++)
        out[(i / 2 * LANES + lane) * 2 + i % 2] = to_bf16(row[i]);
}

/* Packs (count, columns) numbers as rows `first` and the following of bands that begin as zeros;
   `scales` is for INT8. 0, or -1 without memory. */
int pack(const number *from, int64_t count, int64_t columns, int64_t format, int64_t width,
         int64_t first, uint8_t *bands, uint16_t *scales)
{
    float *row = calloc((size_t)width, sizeof *row);
    if (!row)
        return -1;
    for (int64_t r = first; r < first + count; r++, from += columns) {
        int64_t band = r / LANES, lane = r % LANES;
        uint8_t *out = bands + band * LANES * row_bytes(format, width);
        uint16_t *scale = scales + band * width / STEP * LANES + lane;
        for (int64_t i = 0; i < columns; i++)
            row[i] = to_float(from[i]);
        if (format == INT8)
            for (int64_t i = 0; i < width; i += STEP)
                pack_int8(row + i, lane, out + i * LANES, scale + i / STEP * LANES);
        else if (format == INT4)
            for (int64_t i = 0; i < width; i += GROUP)
                pack_int4(row + i, lane, (Int4 *)out + i / GROUP);
        else
            pack_bf16(row, width, lane, (uint16_t *)out);
    }
    free(row);
    return 0;
}
