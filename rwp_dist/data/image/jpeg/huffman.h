/* Entropy decoding of baseline JPEGs in libjpeg's place: the same coefficients, sooner. */
#ifndef RWP_HUFFMAN_H
#define RWP_HUFFMAN_H

#include <stddef.h>
#include <stdio.h>

#include <jpeglib.h>

/* Read the scan of `info` from now on, wanting the coefficients of MCU columns first..last only.
 *
 * Call it between jpeg_start_decompress and the first row; the source has to be one buffer that
 * holds the rest of the file. Leaves libjpeg's decoder where it is if the file is not plain:
 * progressive, lossless, arithmetic, several scans, restart markers.
 *
 * Returns the first marker behind the scan, or where the scan begins if it is left to libjpeg.
 */
const JOCTET *huffman_take_over(j_decompress_ptr info, JDIMENSION first, JDIMENSION last);

/* Hand the source back behind the scan, after the last row and before jpeg_finish_decompress. */
void huffman_give_back(j_decompress_ptr info);

#endif
