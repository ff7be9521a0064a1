/* A crop of a JPEG by libjpeg-turbo alone: its Huffman decoder, jpeg_crop_scanline and
 * jpeg_skip_scanlines, nothing else. benchmarks/limits.py compiles it.
 */
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

/* Decode a good JPEG's crop into out, whose rows are widened to whole blocks. */
void crop(const uint8_t *data, size_t size, unsigned left, unsigned top, unsigned width,
          unsigned height, uint8_t *out) {
    struct jpeg_decompress_struct info;
    struct jpeg_error_mgr errors;
    info.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, (unsigned char *)data, size);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    jpeg_crop_scanline(&info, &left, &width);
    jpeg_skip_scanlines(&info, top);
    while (info.output_scanline < top + height) {
        JSAMPROW row = out + (size_t)(info.output_scanline - top) * width * 3;
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_destroy_decompress(&info);
}
