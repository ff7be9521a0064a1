/* A rectangle of a JPEG, and nothing around it, as it is or resized: crop before decode.
 *
 * Entropy coding has to be read from the first row on (huffman.c does it); inverse DCT, upsampling
 * of chroma and colours are done for the rectangle only, and nothing at all for rows below it. The
 * pixels are those of the whole image to the last bit. Rows are resized (resize.c) as they come.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include "huffman.h"
#include "resize.h"

enum {
    CHROMA = 2,        /* columns beside the rectangle that upsampling looks at */
    ROWS = RESIZE_ROWS /* that are handed on at a time */
};

struct errors {
    struct jpeg_error_mgr manager; /* first, because libjpeg knows only this */
    jmp_buf leave;
};

static void on_error(j_common_ptr info) { longjmp(((struct errors *)info->err)->leave, 1); }

/* Warnings have level -1: what libjpeg goes on after is left to the caller's other decoders. */
static void on_message(j_common_ptr info, int level) {
    if (level < 0) on_error(info);
}

/* Whether a progressive file lacks scans. libjpeg then smooths each block by its neighbours: those of
 * a rectangle's border are not there, and not every version does it alike.
 */
static int lacks_scans(j_decompress_ptr info) {
    if (info->coef_bits == NULL) return 0;
    for (int component = 0; component < info->num_components; component++)
        for (int place = 0; place < DCTSIZE2; place++)
            if (info->coef_bits[component][place] != 0) return 1;
    return 0;
}

/* Whether the end follows the scan, as seen from a place in it or behind it. A file of several scans has been read up to its end by now; of
 * one scan, damage below the rectangle would not be seen, and a marker is all that libjpeg refuses.
 */
static int ends_behind_scan(j_decompress_ptr info, const JOCTET *at) {
    if (jpeg_has_multiple_scans(info)) return 1;
    const JOCTET *end = info->src->next_input_byte + info->src->bytes_in_buffer;
    while ((at = memchr(at, 0xFF, end - at)) != NULL) {
        while (at < end && *at == 0xFF) at++;
        if (at == end) return 0;
        if (*at != 0 && (*at < JPEG_RST0 || *at > JPEG_RST0 + 7)) return *at == JPEG_EOI;
    }
    return 0;
}

struct rectangle {
    unsigned left, top, width, height;
};

/* What becomes of the rows of a rectangle: up to ROWS of them, from number y on. */
typedef void (*take_rows)(void *into, uint8_t *const *rows, unsigned y, unsigned count);

/* Decode a rectangle, with pixels of `colours`, and hand its rows on.
 *
 * Returns 0, or 1 if the image is damaged, is no JPEG, does not hold the rectangle, or lacks scans.
 * Below the rectangle only damage is seen for which libjpeg would refuse the whole image.
 */
static int decode(const uint8_t *data, size_t size, J_COLOR_SPACE colours, struct rectangle region,
                  take_rows take, void *into) {
    struct jpeg_decompress_struct info;
    struct errors errors;
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = on_error;
    errors.manager.emit_message = on_message;
    if (setjmp(errors.leave)) {
        jpeg_destroy_decompress(&info);
        return 1;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, (unsigned char *)data, size);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = colours;
    jpeg_start_decompress(&info);

    size_t right = (size_t)region.left + region.width, bottom = (size_t)region.top + region.height;
    if (right > info.output_width || bottom > info.output_height) on_error((j_common_ptr)&info);
    if (lacks_scans(&info)) on_error((j_common_ptr)&info);
    JDIMENSION first = region.left > CHROMA ? region.left - CHROMA : 0;
    JDIMENSION columns = right + CHROMA < info.output_width ? right + CHROMA - first
                                                            : info.output_width - first;
    if (columns < info.output_width) jpeg_crop_scanline(&info, &first, &columns);
    JDIMENSION mcu = info.max_h_samp_factor * DCTSIZE;
    const JOCTET *behind = huffman_take_over(&info, first / mcu, (first + columns - 1) / mcu);
    if (!ends_behind_scan(&info, behind)) on_error((j_common_ptr)&info);
    if (region.top) jpeg_skip_scanlines(&info, region.top);

    size_t stride = (size_t)columns * info.output_components;
    size_t before = (size_t)(region.left - first) * info.output_components;
    JSAMPROW rows[ROWS], inside[ROWS];
    rows[0] = info.mem->alloc_large((j_common_ptr)&info, JPOOL_IMAGE, ROWS * stride);
    for (int row = 1; row < ROWS; row++) rows[row] = rows[0] + row * stride;
    for (int row = 0; row < ROWS; row++) inside[row] = rows[row] + before;
    for (unsigned y = 0, count; y < region.height; y += count) {
        count = region.height - y < ROWS ? region.height - y : ROWS;
        for (unsigned found = 0; found < count;)
            found += jpeg_read_scanlines(&info, rows + found, count - found);
        take(into, inside, y, count);
    }
    if (bottom == info.output_height) {
        huffman_give_back(&info);
        jpeg_finish_decompress(&info);
    }
    jpeg_destroy_decompress(&info);
    return 0;
}

struct image {
    size_t row; /* bytes of one */
    uint8_t *pixels;
};

static void copy_rows(void *into, uint8_t *const *rows, unsigned y, unsigned count) {
    const struct image *image = into;
    for (unsigned row = 0; row < count; row++)
        memcpy(image->pixels + (y + row) * image->row, rows[row], image->row);
}

/* Decode data[size] into out[height][width][channels], channels being 1 or 3. Returns as decode. */
int decode_region(const uint8_t *data, size_t size, int channels, unsigned left, unsigned top,
                  unsigned width, unsigned height, uint8_t *out) {
    struct rectangle region = {left, top, width, height};
    struct image image = {(size_t)width * channels, out};
    return decode(data, size, channels == 3 ? JCS_RGB : JCS_GRAYSCALE, region, copy_rows, &image);
}

static void resize_rows(void *into, uint8_t *const *rows, unsigned y, unsigned count) {
    (void)y;
    resize_take(into, rows, count);
}

/* Resize the same rectangle to [to_height][to_width] pixels, of which the part at `x` and `y` goes
 * into out[out_height][out_width][channels], mirrored if it says so. Returns as decode; also 1 if
 * there is no memory for it.
 */
int decode_view(const uint8_t *data, size_t size, int channels, unsigned left, unsigned top,
                unsigned width, unsigned height, unsigned to_width, unsigned to_height, unsigned x,
                unsigned y, unsigned out_width, unsigned out_height, int mirrored, uint8_t *out) {
    struct rectangle region = {left, top, width, height};
    struct resize *resize = resize_new(channels, width, height, to_width, to_height, x, y,
                                       out_width, out_height, mirrored, out);
    if (resize == NULL) return 1;
    J_COLOR_SPACE colours = channels == 3 ? JCS_EXT_RGBX : JCS_GRAYSCALE;
    int failed = decode(data, size, colours, region, resize_rows, resize);
    resize_free(resize);
    return failed;
}
