/* Numbers, and rows of them packed in one of three formats.

   Rows are packed in bands of 16, one to each lane of a vector, so that no sum goes across lanes.

   ELEMENT_IS_FLOAT32 at compile time makes `number`, the format of the embedding, of the cache and
   of weights that are to be packed, float instead of bfloat16. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, INT8_GROUP = 64, INT4_GROUP = 32 };
enum { FORMAT_BF16, FORMAT_INT8, FORMAT_INT4 };

typedef float f32x16 __attribute__((vector_size(LANES * 4)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x16 __attribute__((vector_size(LANES * 4)));

#ifdef ELEMENT_IS_FLOAT32
typedef float element_t;
#else
typedef uint16_t element_t;
#endif

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* --- numbers ------------------------------------------------------------------------------- */

static inline f32x16 load_f32x16(const float *from)
{
    f32x16 out;
    memcpy(&out, from, sizeof out);
    return out;
}

/* Four numbers with the same sum. */
static inline f32x4 fold_to_f32x4(f32x16 v)
{
    union {
        f32x16 whole;
        f32x4 part[4];
    } both = {.whole = v}; /* a copy, so that the compiler can keep `v` in a register */
    return (both.part[0] + both.part[2]) + (both.part[1] + both.part[3]);
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

/* e to the power of a value up to 88, within two units in the last place; loops of it vectorise. */
static inline float expf_approx(float value)
{
    value = value < -87.0f ? -87.0f : value;
    value = value > 88.0f ? 88.0f : value;
    float shifted = value * 1.44269504f + 12582912.0f; /* the nearest whole power of two */
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

/* --- formats ------------------------------------------------------------------------------- */

/* Rows of all formats have a multiple of STEP numbers; zeros stand behind the model's own.

   BF16: for each two columns, of each row of the band both numbers.
   INT8: for each four columns, of each row four levels from -127 to 127, plus 128. For each step
   of a band, its rows' scales (bfloat16) stand elsewhere.
   INT4: for each group of columns the following; number i of a row is `low + step * level`. */
typedef struct {
    uint16_t scale_min[LANES][2]; /* step and low, bfloat16 */
    uint8_t codes[INT4_GROUP / 8][LANES]
                 [4]; /* 0 to 15: of number 8j + k low, of 8j + 4 + k high bits */
} Int4Group;

/* On the average; rows of a band stand between each other. */
int64_t packed_row_bytes(int64_t format, int64_t width)
{
    return format == FORMAT_BF16   ? 2 * width
           : format == FORMAT_INT8 ? width
                                   : width / INT4_GROUP * 20;
}

static void quantize_int8(const float *row, int64_t lane, uint8_t *out, uint16_t *scale)
{
    float max_abs = 0.0f;
    for (int i = 0; i < INT8_GROUP; i++)
        max_abs = fabsf(row[i]) > max_abs ? fabsf(row[i]) : max_abs;
    *scale = float_to_bf16(max_abs / 127.0f);
    float step = bf16_to_float(*scale);
    for (int i = 0; i < INT8_GROUP; i++) {
        float code = step > 0.0f ? rintf(row[i] / step) : 0.0f;
        code = code < -127.0f ? -127.0f : code > 127.0f ? 127.0f : code;
        out[(i / 4 * LANES + lane) * 4 + i % 4] = (uint8_t)(128 + (int)code);
    }
}

/* Rounds GROUP numbers with a step that is a part of what they span; returns the squared error. */
static float quantize_int4(const float *row, float span, int divisions, float minimum,
                           uint8_t *codes, uint16_t *scale)
{
    *scale = float_to_bf16(span / (float)divisions);
    float step = bf16_to_float(*scale), error = 0.0f;
    for (int i = 0; i < INT4_GROUP; i++) {
        float code = step > 0.0f ? rintf((row[i] - minimum) / step) : 0.0f;
        code = code < 0.0f ? 0.0f : code > 15.0f ? 15.0f : code;
        codes[i] = (uint8_t)code;
        error += (row[i] - minimum - step * code) * (row[i] - minimum - step * code);
    }
    return error;
}

/* The step is the fifteenth part of what the numbers span, but for those that had 4 bits before and
   do not span all of them. */
static void quantize_and_pack_int4(const float *row, int64_t lane, Int4Group *out)
{
    float minimum = row[0], maximum = row[0];
    for (int i = 1; i < INT4_GROUP; i++) {
        minimum = row[i] < minimum ? row[i] : minimum;
        maximum = row[i] > maximum ? row[i] : maximum;
    }
    uint16_t *scales = out->scale_min[lane];
    uint8_t codes[INT4_GROUP];
    scales[1] = float_to_bf16(minimum), minimum = bf16_to_float(scales[1]);
    float span = maximum - minimum,
          tolerance = 1e-4f * span * span; /* what rounding to bfloat16 may cost */
    float error = quantize_int4(row, span, 15, minimum, codes, scales);
    for (int divisions = 14; divisions >= 8 && error > tolerance; divisions--) {
        uint8_t other_codes[INT4_GROUP];
        uint16_t other_scale;
        float other_error = quantize_int4(row, span, divisions, minimum, other_codes, &other_scale);
        if (8 * other_error < error)
            error = other_error, scales[0] = other_scale,
            memcpy(codes, other_codes, sizeof other_codes);
    }
    for (int j = 0; j < INT4_GROUP / 8; j++)
        for (int k = 0; k < 4; k++)
            out->codes[j][lane][k] = (uint8_t)(codes[8 * j + k] | codes[8 * j + 4 + k] << 4);
}

static void pack_bf16(const float *row, int64_t width, int64_t lane, uint16_t *out)
{
    for (int64_t i = 0; i < width; i++)
        out[(i / 2 * LANES + lane) * 2 + i % 2] = float_to_bf16(row[i]);
}

/* Packs (count, columns) numbers as rows `first` and the following of bands that begin as zeros;
   `scales` is for INT8. 0, or -1 without memory. */
int pack_rows(const element_t *weights, int64_t rows, int64_t columns, int64_t format,
              int64_t width, int64_t first_row, uint8_t *panels, uint16_t *scales)
{
    float *row = calloc((size_t)width, sizeof *row);
    if (!row)
        return -1;
    for (int64_t r = first_row; r < first_row + rows; r++, weights += columns) {
        int64_t panel = r / LANES, lane = r % LANES;
        uint8_t *out = panels + panel * LANES * packed_row_bytes(format, width);
        uint16_t *scale = scales + panel * width / INT8_GROUP * LANES + lane;
        for (int64_t i = 0; i < columns; i++)
            row[i] = element_to_float(weights[i]);
        if (format == FORMAT_INT8)
            for (int64_t i = 0; i < width; i += INT8_GROUP)
                quantize_int8(row + i, lane, out + i * LANES, scale + i / INT8_GROUP * LANES);
        else if (format == FORMAT_INT4)
            for (int64_t i = 0; i < width; i += INT4_GROUP)
                quantize_and_pack_int4(row + i, lane, (Int4Group *)out + i / INT4_GROUP);
        else
            pack_bf16(row, width, lane, (uint16_t *)out);
    }
    free(row);
    return 0;
}
