// Rows of activations as int8 codes, for products of whole numbers.
// src/kept/ops/integer_products.py is the specification.
//
// A row lies in one piece, its parts one behind the other:
//
//   codes    int8, an input each. Rows for weights of 4 bits have of each 8 the inputs
//            0 4 1 5 2 6 3 7, the order in which the nibbles of a column come out of their 32 bits
//            (layout.h)
//   scales   a float for each group of kCodeGroup inputs
//   starts   an int32 for each span of inputs that is summed in one go: what its sums begin with
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace kept {

constexpr int kCodeGroup = 32;  // inputs of a row that share a scale, the last group maybe fewer

// Added to weights where an instruction takes them without a sign; a span's sums then begin with
// this many times the sum of its activations, taken away.
constexpr int kWeightOffset = 128;

struct CodeRows {
    std::byte* data = nullptr;
    std::int64_t width = 0;  // inputs, padded to 32
    bool for_int4 = false;   // or other weights of 4 bits

    std::int64_t span() const { return for_int4 ? kGroup : kCodeGroup; }
    std::int64_t num_groups() const { return (width + kCodeGroup - 1) / kCodeGroup; }
    std::int64_t num_spans() const { return (width + span() - 1) / span(); }
    // Bytes from one row to the next: whole cache lines.
    std::int64_t stride() const { return round_up(width + 4 * (num_groups() + num_spans()), 64); }
    std::int8_t* codes(std::int64_t row) const {
        return reinterpret_cast<std::int8_t*>(data + row * stride());
    }
    float* scales(std::int64_t row) const {
        return reinterpret_cast<float*>(data + row * stride() + width);
    }
    std::int32_t* starts(std::int64_t row) const {
        return reinterpret_cast<std::int32_t*>(scales(row) + num_groups());
    }
};

constexpr std::int64_t kCodeBlockBytes = 1 << 19;  // of rows that stay in the second cache
constexpr std::int64_t kLeastBlock = 96;           // rows

// Rows, at most, that are multiplied with all panels before the next are.
inline std::int64_t code_block_rows(const CodeRows& codes) {
    return std::max<std::int64_t>(kCodeBlockBytes / codes.stride(), kLeastBlock);
}

// Rows of floats to codes. Numbers behind a row's own are zeros up to a multiple of 32.
struct EncodeRowsArgs {
    const float* x;
    std::int64_t x_stride;
    CodeRows out;
};

}  // namespace kept
