/* Standard normal values by Philox4x32-10 and Box and Muller: the kernels' noise, on a CPU.
 *
 * Which value an element gets is defined in philox.py, and every operation rounds as IEEE 754 says,
 * so that all processors get the same bits. It is compiled without fused multiplication (see
 * native.py), and takes no function of the C library but sqrtf, which rounds correctly.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

enum { LANES = 128, VECTOR = 8 };

/* Words of 32 bits in lanes of 64, where their products have room. What is above is not cleared:
 * multiply() does not read it. */
typedef uint64_t Words __attribute__((vector_size(8 * VECTOR)));
typedef uint32_t Halves __attribute__((vector_size(4 * VECTOR)));

/* Whether there are vectors that make this faster than torch's generator. */
int is_fast(void)
{
#ifdef __AVX2__
    return 1;
#else
    return 0;
#endif
}

static inline Words multiply(Words words, uint32_t factor)
{
#if defined(__AVX512F__)
    return (Words)_mm512_mul_epu32((__m512i)words, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
    union {
        Words whole;
        __m256i half[2];
    } product = {words};
    product.half[0] = _mm256_mul_epu32(product.half[0], _mm256_set1_epi64x(factor));
    product.half[1] = _mm256_mul_epu32(product.half[1], _mm256_set1_epi64x(factor));
    return product.whole;
#else
    return (words & 0xffffffff) * factor;
#endif
}

static inline void store(uint32_t *to, Words words)
{
    const Halves low = __builtin_convertvector(words, Halves);
    memcpy(to, &low, sizeof low);
}

/* Four random words for each of `lanes` counters, (counter[0] + lane, counter[1], counter[2], 0). */
static void draw_words(uint32_t words[4][LANES], int lanes, const uint32_t counter[3],
                       const uint32_t key[2])
{
    const Words zero = {0}, numbers = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int lane = 0; lane < lanes; lane += VECTOR) {
        Words c0 = numbers + (uint64_t)(counter[0] + (uint32_t)lane);
        Words c1 = zero + counter[1], c2 = zero + counter[2], c3 = zero;
        uint32_t k0 = key[0], k1 = key[1];
        for (int round = 0; round < 10; round++) {
            const Words first = multiply(c0, 0xD2511F53), second = multiply(c2, 0xCD9E8D57);
            c0 = (second >> 32) ^ c1 ^ k0;
            c1 = second;
            c2 = (first >> 32) ^ c3 ^ k1;
            c3 = first;
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        store(&words[0][lane], c0);
        store(&words[1][lane], c1);
        store(&words[2][lane], c2);
        store(&words[3][lane], c3);
    }
}

static inline float as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Natural logarithm of a positive normal number, by Cephes' polynomial (logf). */
static inline float logarithm(float value)
{
    const int32_t root_half = 0x3f3504f3;
    const int32_t bits = (int32_t)as_bits(value) - root_half;
    const float exponent = (float)(bits >> 23);
    const float x = as_float((uint32_t)((bits & 0x7fffff) + root_half)) - 1.0f;
    const float z = x * x;
    float y = 7.0376836292e-2f;
    y = y * x - 1.1514610310e-1f;
    y = y * x + 1.1676998740e-1f;
    y = y * x - 1.2420140846e-1f;
    y = y * x + 1.4249322787e-1f;
    y = y * x - 1.6668057665e-1f;
    y = y * x + 2.0000714765e-1f;
    y = y * x - 2.4999993993e-1f;
    y = y * x + 3.3333331174e-1f;
    y = y * x * z + exponent * -2.12194440e-4f;
    return (x + (y - 0.5f * z)) + exponent * 0.693359375f;
}

/* Box and Muller's transform of pairs of words, with Cephes' polynomials of sine and cosine: the
 * angle is some quarter turns, and an eighth at most. */
static void make_normal(const uint32_t *restrict first, const uint32_t *restrict second, int lanes,
                        float *restrict a, float *restrict b)
{
    const float eighth = 1.5707963267948966f * 0x1p-32f;
    for (int lane = 0; lane < lanes; lane++) {
        const float u = (float)first[lane] * 0x1p-32f + 0x1p-33f;
        const float radius = sqrtf(-2.0f * logarithm(u));
        const float x = (float)(int32_t)(second[lane] << 2) * eighth, z = x * x;
        float sine = (z * -1.9515295891e-4f + 8.3321608736e-3f) * z - 1.6666654611e-1f;
        sine = sine * z * x + x;
        float cosine = (z * 2.443315711809948e-5f - 1.388731625493765e-3f) * z;
        cosine = (cosine + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
        const uint32_t turns = second[lane] >> 30, odd = -(turns & 1);
        const uint32_t s = as_bits(sine), c = as_bits(cosine);
        a[lane] = radius * as_float(((c & ~odd) | (s & odd)) ^ ((turns ^ turns >> 1) << 31));
        b[lane] = radius * as_float(((s & ~odd) | (c & odd)) ^ (turns >> 1 << 31));
    }
}

/* The values of one parameter, [rows, length]. */
void fill_normal(float *out, int64_t rows, int64_t length, uint32_t key_low, uint32_t key_high,
                 uint32_t parameter)
{
    const uint32_t key[2] = {key_low, key_high};
    uint32_t words[4][LANES];
    float values[4 * LANES];
    for (int64_t row = 0; row < rows; row++)
        for (int64_t start = 0; start < length; start += 4 * LANES) {
            const int64_t left = length - start;
            const int lanes = left < LANES ? (int)(left + VECTOR - 1) / VECTOR * VECTOR : LANES;
            const int64_t count = left < 4 * LANES ? left : 4 * LANES;
            const uint32_t counter[3] = {(uint32_t)(start / 4), (uint32_t)row, parameter};
            float *to = count == 4 * LANES ? out : values;
            draw_words(words, lanes, counter, key);
            make_normal(words[0], words[1], lanes, to, to + LANES);
            if (left > 2 * LANES)
                make_normal(words[2], words[3], lanes, to + 2 * LANES, to + 3 * LANES);
            if (to == values)
                memcpy(out, values, (size_t)count * sizeof *out);
            out += count;
        }
}
