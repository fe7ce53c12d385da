/* Formats of packed matrices, named after the types of ggml whose values they hold without loss.

   Rows are packed in panels of 16, one row per vector lane, so that no sum crosses lanes. Columns
   are padded with zeros to a multiple of ACTIVATION_GROUP.

   A panel of a quantized format is a sequence of blocks. A value is `scale * code + minimum`; where
   the format has no minimums, `scale * (code - zero)`. A block holds, for each of the 16 rows:

   - `two_level` formats: a float16, and another where there are minimums, for 256 columns; by these
     the group's own scales and minimums, signed bytes, are multiplied. Then these bytes.
   - other formats: the scales of its two groups of 32 columns, then their minimums, in float16. With
     `zero_points`, a minimum is -scale * zero, and zeros are there instead.

   and then, for each slab of 32 columns, the codes: see `unpack_slab`. */

#pragma once

#include "vectors.h"

enum { ACTIVATION_GROUP = 64 }; /* columns in which activations share a scale */
enum { SLAB = 32, SLAB_QUADS = SLAB / 4 };

/* Also the types of stored matrices; the numbers are those of c_decoder.py. */
enum {
    F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS,
    MXFP4, Q4_Z, Q8_Z
};

enum { NO_CODEBOOK, CODEBOOK_IQ4, CODEBOOK_FP4 };

typedef struct {
    int bits; /* of a code */
    int group; /* columns that share a scale */
    bool two_level, has_minimums;
    int zero; /* the code of 0 where there are no minimums */
    int codebook; /* codes are indices into it; its values are offset by `zero` */
    bool zero_points;
} Format;

#define FORMAT_Q4_0 ((Format){4, 32, false, false, 8, NO_CODEBOOK, false})
#define FORMAT_Q4_1 ((Format){4, 32, false, true, 0, NO_CODEBOOK, false})
#define FORMAT_Q5_0 ((Format){5, 32, false, false, 16, NO_CODEBOOK, false})
#define FORMAT_Q5_1 ((Format){5, 32, false, true, 0, NO_CODEBOOK, false})
#define FORMAT_Q8_0 ((Format){8, 32, false, false, 128, NO_CODEBOOK, false})
#define FORMAT_Q2_K ((Format){2, 16, true, true, 0, NO_CODEBOOK, false})
#define FORMAT_Q3_K ((Format){3, 16, true, false, 4, NO_CODEBOOK, false})
#define FORMAT_Q4_K ((Format){4, 32, true, true, 0, NO_CODEBOOK, false})
#define FORMAT_Q5_K ((Format){5, 32, true, true, 0, NO_CODEBOOK, false})
#define FORMAT_Q6_K ((Format){6, 16, true, false, 32, NO_CODEBOOK, false})
#define FORMAT_IQ4_NL ((Format){4, 32, false, false, 128, CODEBOOK_IQ4, false})
#define FORMAT_IQ4_XS ((Format){4, 32, true, false, 128, CODEBOOK_IQ4, false})
#define FORMAT_MXFP4 ((Format){4, 32, false, false, 128, CODEBOOK_FP4, false})
#define FORMAT_Q4_Z ((Format){4, 32, false, true, 0, NO_CODEBOOK, true})
#define FORMAT_Q8_Z ((Format){8, 32, false, true, 0, NO_CODEBOOK, true})

/* Run `statement` with `FORMAT` a constant, so that the compiler makes code for each format. */
#define FOR_QUANTIZED_FORMAT(number, statement)                                                    \
    switch (number) {                                                                              \
    case Q4_0: { const Format FORMAT = FORMAT_Q4_0; statement; break; }                            \
    case Q4_1: { const Format FORMAT = FORMAT_Q4_1; statement; break; }                            \
    case Q5_0: { const Format FORMAT = FORMAT_Q5_0; statement; break; }                            \
    case Q5_1: { const Format FORMAT = FORMAT_Q5_1; statement; break; }                            \
    case Q8_0: { const Format FORMAT = FORMAT_Q8_0; statement; break; }                            \
    case Q2_K: { const Format FORMAT = FORMAT_Q2_K; statement; break; }                            \
    case Q3_K: { const Format FORMAT = FORMAT_Q3_K; statement; break; }                            \
    case Q4_K: { const Format FORMAT = FORMAT_Q4_K; statement; break; }                            \
    case Q5_K: { const Format FORMAT = FORMAT_Q5_K; statement; break; }                            \
    case Q6_K: { const Format FORMAT = FORMAT_Q6_K; statement; break; }                            \
    case IQ4_NL: { const Format FORMAT = FORMAT_IQ4_NL; statement; break; }                        \
    case IQ4_XS: { const Format FORMAT = FORMAT_IQ4_XS; statement; break; }                        \
    case MXFP4: { const Format FORMAT = FORMAT_MXFP4; statement; break; }                          \
    case Q4_Z: { const Format FORMAT = FORMAT_Q4_Z; statement; break; }                            \
    case Q8_Z: { const Format FORMAT = FORMAT_Q8_Z; statement; break; }                            \
    }

static Format quantized_format(int64_t number)
{
    Format format = {0};
    FOR_QUANTIZED_FORMAT(number, format = FORMAT)
    return format;
}

static bool is_quantized(int64_t format) { return format > BF16; }

ALWAYS_INLINE int block_columns(const Format f) { return f.two_level ? 256 : 64; }
ALWAYS_INLINE int group_bytes(const Format f)
{
    return LANES * (f.two_level ? 1 : 2) * (f.has_minimums ? 2 : 1);
}
ALWAYS_INLINE int codes_offset(const Format f)
{
    return (f.two_level ? 64 : 0) + block_columns(f) / f.group * group_bytes(f);
}
ALWAYS_INLINE int slab_bytes(const Format f) { return f.bits * 64; }
ALWAYS_INLINE int block_bytes(const Format f)
{
    return codes_offset(f) + block_columns(f) / SLAB * slab_bytes(f);
}

/* Bytes of a panel of 16 rows. */
int64_t panel_bytes(int64_t format, int64_t width)
{
    if (!is_quantized(format))
        return LANES * width * (format == F32 ? 4 : 2);
    Format f = quantized_format(format);
    return width / block_columns(f) * block_bytes(f);
}

/* --- activations --------------------------------------------------------------------------- */

/* Activations are quantized to 15 bits: `scale * code`, with codes up to 127 * 128. */

/* The larger of some magnitudes, as bits, and of those of 16 values. */
static inline i32x16 larger_magnitudes(i32x16 magnitudes, f32x16 values)
{
    i32x16 magnitude = (i32x16)values & 0x7fffffff; /* ordered as the floats are */
    i32x16 larger = magnitude > magnitudes;
    return (magnitude & larger) | (magnitudes & ~larger);
}

/* The scale for values of these magnitudes; returns what they are multiplied by to become codes. */
static inline float activation_scale(i32x16 magnitudes, float *scale)
{
    for (int i = 1; i < LANES; i++)
        magnitudes[0] = magnitudes[i] > magnitudes[0] ? magnitudes[i] : magnitudes[0];
    float largest = ((f32x16)magnitudes)[0], max_code = 127 * 128;
    *scale = largest / max_code;
    return largest > 1e-30f ? max_code / largest : 0.0f;
}

static inline i32x16 round_to_codes(f32x16 scaled)
{
    /* adding 1.5 * 2^23 rounds to the nearest integer */
    return (i32x16)(scaled + 12582912.0f) - 0x4b400000;
}

/* --- floats of 16 bits ----------------------------------------------------------------------- */

/* Two columns of a panel in BF16 or F16. */
static inline void load_two_columns(int64_t format, const uint8_t *from, f32x16 columns[2])
{
    if (format == BF16) {
        i32x16 words = load_i32x16(from);
        columns[0] = bf16_low_to_f32(words), columns[1] = bf16_high_to_f32(words);
    } else {
        columns[0] = load_f16_as_f32(from), columns[1] = load_f16_as_f32(from + 2 * LANES);
    }
}

/* --- codes ----------------------------------------------------------------------------------- */

/* The codebooks, offset by 128. */
static const uint8_t CODEBOOKS[3][16] = {
    [CODEBOOK_IQ4] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241},
    [CODEBOOK_FP4] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120,
                      116}};

/* The values of 64 indices below 16. */
ALWAYS_INLINE i32x16 look_up(const int codebook, i32x16 indices)
{
#if defined __AVX512BW__
    __m128i table = _mm_loadu_si128((const __m128i *)CODEBOOKS[codebook]);
    return (i32x16)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)indices);
#else
    uint8_t bytes[64];
    memcpy(bytes, &indices, sizeof bytes);
    for (int i = 0; i < 64; i++)
        bytes[i] = CODEBOOKS[codebook][bytes[i]];
    return load_i32x16(bytes);
#endif
}

/* The codes of 32 columns: quad q has those of columns 4q to 4q + 3, four bytes per row.

   Stored are up to three planes: the low 4 bits of two quads in one vector, 2 bits of four quads,
   1 bit of all eight. Codes of 8 bits are stored as they are. */
ALWAYS_INLINE void unpack_slab(const Format f, const uint8_t *slab, i32x16 quads[SLAB_QUADS])
{
    if (f.bits == 8) {
        for (int q = 0; q < SLAB_QUADS; q++)
            quads[q] = load_i32x16(slab + 64 * q);
        return;
    }
    for (int q = 0; q < SLAB_QUADS; q++)
        quads[q] = (i32x16){0};
    int shift = 0;
    if (f.bits & 4) {
        for (int j = 0; j < 4; j++, slab += 64) {
            i32x16 both = load_i32x16(slab);
            quads[2 * j] = both & 0x0f0f0f0f, quads[2 * j + 1] = both >> 4 & 0x0f0f0f0f;
        }
        shift = 4;
    }
    if (f.bits & 2) {
        for (int j = 0; j < 2; j++, slab += 64) {
            i32x16 four = load_i32x16(slab);
            for (int k = 0; k < 4; k++)
                quads[4 * j + k] |= (four >> 2 * k & 0x03030303) << shift;
        }
        shift += 2;
    }
    if (f.bits & 1) {
        i32x16 all = load_i32x16(slab);
        for (int q = 0; q < SLAB_QUADS; q++)
            quads[q] |= (all >> q & 0x01010101) << shift;
    }
    if (f.codebook)
        for (int q = 0; q < SLAB_QUADS; q++)
            quads[q] = look_up(f.codebook, quads[q]);
}

/* The inverse of `unpack_slab`, without the codebook. */
static void pack_slab(int bits, i32x16 quads[SLAB_QUADS], uint8_t *slab)
{
    i32x16 planes[SLAB_QUADS] = {0};
    int count = 0, shift = 0;
    if (bits == 8) {
        memcpy(slab, quads, SLAB_QUADS * sizeof *quads);
        return;
    }
    if (bits & 4) {
        for (; count < 4; count++)
            planes[count] = (quads[2 * count] & 0x0f0f0f0f)
                            | (quads[2 * count + 1] & 0x0f0f0f0f) << 4;
        shift = 4;
    }
    if (bits & 2) {
        for (int j = 0; j < 2; j++, count++)
            for (int k = 0; k < 4; k++)
                planes[count] |= (quads[4 * j + k] >> shift & 0x03030303) << 2 * k;
        shift += 2;
    }
    if (bits & 1) {
        for (int q = 0; q < SLAB_QUADS; q++)
            planes[count] |= (quads[q] >> shift & 0x01010101) << q;
        count++;
    }
    memcpy(slab, planes, (size_t)count * sizeof *planes);
}

/* --- scales ---------------------------------------------------------------------------------- */

/* Of one group of a block, for 16 rows; those of two-level formats are yet to be multiplied. */
ALWAYS_INLINE f32x16 group_scale(const Format f, const uint8_t *block, int group)
{
    if (f.two_level)
        return load_i8_as_f32(block + 64 + group * group_bytes(f));
    return load_f16_as_f32(block + group * 2 * LANES);
}

ALWAYS_INLINE f32x16 group_minimum(const Format f, const uint8_t *block, int group)
{
    if (f.two_level)
        return load_i8_as_f32(block + 64 + group * group_bytes(f) + LANES);
    f32x16 minimum = load_f16_as_f32(block + 64 + group * 2 * LANES);
    return f.zero_points ? -minimum * group_scale(f, block, group) : minimum;
}

/* What the scales and the minimums of a two-level block are multiplied by. */
ALWAYS_INLINE f32x16 block_scale(const uint8_t *block) { return load_f16_as_f32(block); }
ALWAYS_INLINE f32x16 block_minimum(const uint8_t *block)
{
    return load_f16_as_f32(block + 2 * LANES);
}
