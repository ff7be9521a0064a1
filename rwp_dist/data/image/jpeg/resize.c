/* Bilinear resizing with antialiasing, to the pixels of torch's kernel for uint8.
 *
 * That is torch.nn.functional.interpolate(mode="bilinear", antialias=True) of channels-last images:
 * first along rows, then along columns, with weights of 16 bits and bytes in between
 * (aten/src/ATen/native/cpu/UpSampleKernel.cpp). Here four rows lie side by side while they are
 * resized, so that all bytes of a vector have the same weight. A processor with AVX2 takes functions
 * of its own, so that one library serves all machines that share it; for others the compiler
 * vectorises, to the same pixels: they are sums of integers.
 */
#include "resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__) && !defined(RESIZE_PLAIN)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#endif
#ifdef __GNUC__
#define INTO_CALLER inline __attribute__((always_inline))
#else
#define INTO_CALLER inline
#endif

enum {
    PIXEL = 4,                    /* bytes of a pixel while rows are resized; the fourth is unused */
    LANES = RESIZE_ROWS * PIXEL,  /* bytes of a column of pixels */
    KEPT = 60,                    /* rows that fit before those that are needed move to the front */
    MOST_BITS = 22                /* of the weights' fraction */
};

/* Of each pixel of a resized row or column: which pixels it is made of. */
struct weights {
    unsigned size, most;    /* pixels, and those that one is made of at most */
    unsigned *first, *count;
    int16_t *value;         /* [size][most], multiplied by 1 << bits */
    int bits;
};

struct resize {
    int channels, mirrored, has_avx2;
    unsigned width;         /* of the source */
    struct weights across, down;
    uint8_t *columns;       /* [width + 1][LANES]: rows side by side */
    uint8_t *narrow;        /* [room + 1][stride]: rows of the final width that are still needed */
    size_t stride;
    unsigned begin, taken;  /* numbers of the first row there, and of the next to come */
    unsigned room, written; /* rows of out */
    uint8_t *out;
};

static void *array(size_t count, size_t size) {
    return count > SIZE_MAX / size ? NULL : malloc(count * size);
}

/* Weights of a triangle as wide as the pixels it covers, for `size` of the `to` pixels that `from`
 * become, from number `begin` on. Returns 0 if there is no memory.
 */
static int make_weights(struct weights *weights, unsigned from, unsigned to, unsigned begin,
                        unsigned size) {
    double scale = (double)from / to, support = scale >= 1 ? scale : 1, inverse = 1 / support;
    double largest = 0;
    unsigned most = (unsigned)ceil(support) * 2 + 2; /* even, see weigh() */
    double *exact = array((size_t)most, to * sizeof *exact);
    weights->size = size;
    weights->most = most;
    weights->first = array(to, sizeof *weights->first);
    weights->count = array(to, sizeof *weights->count);
    weights->value = calloc((size_t)size, most * sizeof *weights->value);
    if (!exact || !weights->first || !weights->count || !weights->value) {
        free(exact);
        return 0;
    }
    for (unsigned i = 0; i < to; i++) {
        double centre = scale * (i + 0.5), total = 0, *value = exact + (size_t)i * most;
        int64_t first = centre - support + 0.5, end = centre + support + 0.5;
        if (first < 0) first = 0;
        if (end > from) end = from;
        unsigned count = end - first >= most ? most - 1 : end - first;
        for (unsigned j = 0; j < count; j++) {
            double distance = fabs((j + first - centre + 0.5) * inverse);
            total += value[j] = distance < 1 ? 1 - distance : 0;
        }
        for (unsigned j = 0; j < count; j++) {
            value[j] /= total;
            if (value[j] > largest) largest = value[j];
        }
        weights->first[i] = first;
        weights->count[i] = count;
    }
    int bits = 0;
    while (bits < MOST_BITS && (int)(0.5 + largest * (1 << (bits + 1))) < 1 << 15) bits++;
    weights->bits = bits;
    for (unsigned i = 0; i < size; i++) {
        unsigned count = weights->count[begin + i];
        weights->first[i] = weights->first[begin + i];
        weights->count[i] = count;
        for (unsigned j = 0; j < count; j++)
            weights->value[(size_t)i * most + j] =
                0.5 + exact[(size_t)(begin + i) * most + j] * (1 << bits);
    }
    free(exact);
    return 1;
}

struct resize *resize_new(int channels, unsigned width, unsigned height, unsigned to_width,
                          unsigned to_height, unsigned left, unsigned top, unsigned out_width,
                          unsigned out_height, int mirrored, uint8_t *out) {
    struct resize *resize = calloc(1, sizeof *resize);
    if (!resize) return NULL;
    resize->channels = channels;
    resize->mirrored = mirrored;
    resize->width = width;
    resize->out = out;
#ifdef AVX2
    resize->has_avx2 = __builtin_cpu_supports("avx2");
#endif
    int made = make_weights(&resize->across, width, to_width, left, out_width) &&
               make_weights(&resize->down, height, to_height, top, out_height);
    /* Beside a row there is room for the unused byte of its last pixel, and for a whole vector. */
    resize->stride = (size_t)out_width * channels + PIXEL + LANES;
    resize->room = resize->down.most + KEPT + RESIZE_ROWS;
    resize->columns = array((size_t)width + 1, LANES);
    resize->narrow = array((size_t)resize->room + 1, resize->stride);
    if (!made || !resize->columns || !resize->narrow) {
        resize_free(resize);
        return NULL;
    }
    return resize;
}

void resize_free(struct resize *resize) {
    free(resize->across.first), free(resize->across.count), free(resize->across.value);
    free(resize->down.first), free(resize->down.count), free(resize->down.value);
    free(resize->columns);
    free(resize->narrow);
    free(resize);
}

/* The weighted sum of `count` vectors of LANES bytes, `stride` bytes apart, with a weight of 0 behind
 * an odd number of them.
 */
typedef void weigh(uint8_t *to, const uint8_t *from, size_t stride, const int16_t *weights,
                   unsigned count, int bits);

#ifdef AVX2
AVX2 static inline void weigh_by_avx2(uint8_t *to, const uint8_t *from, size_t stride,
                                      const int16_t *weights, unsigned count, int bits) {
    __m256i low = _mm256_set1_epi32(1 << (bits - 1)), high = low; /* rounds */
    for (unsigned i = 0; i < count; i += 2, from += 2 * stride) {
        int32_t two;
        memcpy(&two, weights + i, sizeof two);
        __m256i pair = _mm256_set1_epi32(two);
        __m128i one = _mm_loadu_si128((const __m128i *)from);
        __m128i next = _mm_loadu_si128((const __m128i *)(from + stride));
        __m256i pixels = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(one, next));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(pixels, pair));
        pixels = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(one, next));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(pixels, pair));
    }
    low = _mm256_srai_epi32(low, bits);
    high = _mm256_srai_epi32(high, bits);
    __m256i sums = _mm256_packs_epi32(low, high);
    sums = _mm256_packus_epi16(sums, sums);
    __m128i half = _mm256_extracti128_si256(sums, 1);
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi32(_mm256_castsi256_si128(sums), half));
}
#endif

static inline void weigh_plainly(uint8_t *to, const uint8_t *from, size_t stride,
                                 const int16_t *weights, unsigned count, int bits) {
    int32_t sums[LANES];
    for (int lane = 0; lane < LANES; lane++) sums[lane] = 1 << (bits - 1); /* rounds */
    for (unsigned i = 0; i < count; i++)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += weights[i] * from[i * stride + lane];
    for (int lane = 0; lane < LANES; lane++) {
        int32_t sum = sums[lane] >> bits;
        to[lane] = sum > 255 ? 255 : sum;
    }
}

/* Lay four rows side by side. */
static void lay(const struct resize *resize, uint8_t *const *rows, unsigned count) {
    const uint8_t *from[RESIZE_ROWS];
    for (unsigned row = 0; row < RESIZE_ROWS; row++) from[row] = rows[row < count ? row : 0];
    uint8_t *to = resize->columns;
    size_t width = resize->width;
    if (resize->channels == 1)
        for (size_t x = 0; x < width; x++, to += LANES)
#pragma GCC unroll 4
            for (int row = 0; row < RESIZE_ROWS; row++) to[row * PIXEL] = from[row][x];
    else
        for (size_t x = 0; x < width; x++, to += LANES)
#pragma GCC unroll 4
            for (int row = 0; row < RESIZE_ROWS; row++)
                memcpy(to + row * PIXEL, from[row] + x * PIXEL, PIXEL);
}

/* Make rows of the final width of those that lie side by side. */
static INTO_CALLER void narrow(const struct resize *resize, uint8_t *to, weigh *weigh) {
    const struct weights across = resize->across;
    const uint8_t *columns = resize->columns;
    size_t stride = resize->stride, step = resize->channels;
    for (unsigned x = 0; x < across.size; x++, to += step) {
        unsigned from = resize->mirrored ? across.size - 1 - x : x;
        uint8_t pixels[LANES];
        weigh(pixels, columns + (size_t)across.first[from] * LANES, LANES,
              across.value + (size_t)from * across.most, across.count[from], across.bits);
#pragma GCC unroll 4
        for (int row = 0; row < RESIZE_ROWS; row++)
            memcpy(to + row * stride, pixels + row * PIXEL, PIXEL);
    }
}

/* Make row y of the result, of `wanted` bytes. */
static INTO_CALLER void write(const struct resize *resize, unsigned y, size_t wanted, weigh *weigh) {
    const struct weights down = resize->down;
    size_t stride = resize->stride, x = 0;
    const uint8_t *rows = resize->narrow + (down.first[y] - resize->begin) * stride;
    const int16_t *value = down.value + (size_t)y * down.most;
    uint8_t *to = resize->out + y * wanted, rest[LANES];
    for (; x + LANES <= wanted; x += LANES)
        weigh(to + x, rows + x, stride, value, down.count[y], down.bits);
    if (x == wanted) return;
    weigh(rest, rows + x, stride, value, down.count[y], down.bits);
    memcpy(to + x, rest, wanted - x);
}

static INTO_CALLER void take(struct resize *resize, uint8_t *const *rows, unsigned count,
                             weigh *weigh) {
    const struct weights *down = &resize->down;
    size_t stride = resize->stride, wanted = (size_t)resize->across.size * resize->channels;
    if (resize->written == down->size) return;
    if (resize->taken - resize->begin + RESIZE_ROWS > resize->room) {
        unsigned first = down->first[resize->written];
        if (first > resize->taken) first = resize->taken;
        memmove(resize->narrow, resize->narrow + (first - resize->begin) * stride,
                (resize->taken - first) * stride);
        resize->begin = first;
    }
    lay(resize, rows, count);
    narrow(resize, resize->narrow + (resize->taken - resize->begin) * stride, weigh);
    resize->taken += count;
    for (unsigned y = resize->written; y < down->size; y = ++resize->written) {
        if (down->first[y] + down->count[y] > resize->taken) break;
        write(resize, y, wanted, weigh);
    }
}

#ifdef AVX2
AVX2 static void take_by_avx2(struct resize *resize, uint8_t *const *rows, unsigned count) {
    take(resize, rows, count, weigh_by_avx2);
}
#endif

void resize_take(struct resize *resize, uint8_t *const *rows, unsigned count) {
#ifdef AVX2
    if (resize->has_avx2) {
        take_by_avx2(resize, rows, count);
        return;
    }
#endif
    take(resize, rows, count, weigh_plainly);
}
