// Rows of codes as a tile reads them: those that it multiplies at once lie together, one group of
// inputs behind the other.
//
//   group   (rows, 32) int8 codes      (rows) float scales      (rows) int32 starts
//
// So each number of a tile is a constant away from one address. Rows that lie apart take an address
// each, more than there are registers for.
#pragma once

#include <cstring>

#include "code_rows.h"

namespace kept {

constexpr std::int64_t kRowGroupBytes =
    kCodeGroup + sizeof(float) + sizeof(std::int32_t);  // of one row's group

// Bytes of rows' words.
inline std::int64_t code_words(const CodeRows& codes, std::int64_t rows) {
    return rows * codes.num_groups() * kRowGroupBytes;
}

// Rows [first, first + rows) to `out`.
inline void make_code_words(const CodeRows& codes, std::int64_t first, std::int64_t rows,
                            std::byte* out) {
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::int8_t* from = codes.codes(first + row);
        const float* scales = codes.scales(first + row);
        const std::int32_t* starts = codes.starts(first + row);
        std::byte* to = out;
        for (std::int64_t g = 0; g < codes.num_groups(); ++g, to += rows * kRowGroupBytes) {
            std::byte* const behind = to + rows * kCodeGroup;
            std::memcpy(to + row * kCodeGroup, from + g * kCodeGroup, kCodeGroup);
            std::memcpy(behind + row * 4, scales + g, 4);
            std::memcpy(behind + (rows + row) * 4, starts + g, 4);
        }
    }
}

}  // namespace kept
