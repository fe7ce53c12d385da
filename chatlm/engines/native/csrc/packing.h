/* SIMD helpers, and weight rows packed as bf16, int8 or int4.

   Rows are packed in panels of 16, one row per vector lane, so that no sum crosses lanes.

   ELEMENT_IS_FLOAT32 at compile time makes `element_t`, the type of the embedding, of the KV cache
   and of unpacked weights, float instead of bfloat16. */

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

/* --- formats ------------------------------------------------------------------------------- */

/* Rows are padded with zeros to a multiple of INT8_GROUP columns. Layout of a panel:

   BF16: for each pair of columns, both values of every row.
   INT8: for each four columns, four codes of every row, -127 to 127 offset by 128. The scales
   (bfloat16, one per row and INT8_GROUP columns) are stored separately.
   INT4: an Int4Group for each INT4_GROUP columns; a value is `minimum + scale * code`. */
typedef struct {
    uint16_t scale_min[LANES][2]; /* scale and minimum, bfloat16 */
    /* 0 to 15: the low nibble is column 8j + k, the high nibble column 8j + 4 + k */
    uint8_t codes[INT4_GROUP / 8][LANES][4];
} Int4Group;

/* Bytes per row on average; the rows of a panel are interleaved. */
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

/* Quantize one group with a scale of `span / divisions`; returns the squared error. */
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

/* The scale is a fifteenth of the group's span, except for values that were quantized to 4 bits
   before and use fewer than 16 levels: the scale that reproduces them is searched for. */
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
    float span = maximum - minimum;
    float tolerance = 1e-4f * span * span; /* error that rounding to bfloat16 alone may cause */
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

/* Pack `rows` rows of weights into panels that are zero-initialized, starting at row `first_row`;
   `scales` is written for INT8 only. Returns 0, or -1 when out of memory. */
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
