// From blocks as GGUF files have them to packed matrices, bit for bit the same numbers.
#pragma once

#include "layout.h"

namespace kept {

// Bytes of a block of 32 weights: an fp16 scale, and behind it
//
//   q8_0   32 int8
//   q4_0   16 bytes: weight i in the low half of byte i, weight 16 + i in the high half, each less
//   8
constexpr std::int64_t block_bytes(Format f) {
    return f == Format::q8_0 ? 34 : 18;
}

// Packs the model's rows [first_row, first_row + num_rows), whose blocks lie one behind the other,
// into `data` and `scales` of the whole matrix. Its inputs are whole blocks, and what is padding of
// the panels is left as it is.
//
// Returns a row that no panel holds, else -1: one with a scale that is not finite, or, of q8_0,
// with a code of -128, which has no size in seven bits.
std::int64_t pack_blocks(const Weights& shape, const std::byte* rows, std::int64_t first_row,
                         std::int64_t num_rows, std::byte* data, std::uint16_t* scales);

// The same by the calling thread alone, within a job of the pool, which settles its strips then.
std::int64_t pack_block_rows(const Weights& shape, const std::byte* rows, std::int64_t first_row,
                             std::int64_t num_rows, std::byte* data, std::uint16_t* scales);

}  // namespace kept
