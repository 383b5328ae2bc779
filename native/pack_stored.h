// Rows of a matrix from a file into panels, without all of them in memory on the way.
#pragma once

#include <span>

#include "layout.h"

namespace kept {

// Rows that lie one behind the other in a file.
struct StoredRows {
    int file;  // a descriptor
    std::int64_t start, num_rows;
};

struct PackedRows {
    enum class End {
        whole,
        strange,  // `where` is a row that no panel holds
        cut,      // the file of part `where` ends before its rows do
        failed,   // reading it did, with the error `error`
    };
    End end = End::whole;
    std::int64_t where = 0;
    int error = 0;
};

// Bytes of a row as files hold it: of fp32 and bf16 its numbers, of q8_0 and q4_0 their blocks.
std::int64_t stored_row_bytes(const Weights& shape);

// Packs a matrix of one of those formats whose rows are those of all parts. The pool's threads each
// read some panels' rows and pack them while the nearest caches have them. data and scales (null
// where there are none) are zeros before.
PackedRows pack_stored(const Weights& shape, std::span<const StoredRows> parts, std::byte* data,
                       std::uint16_t* scales);

}  // namespace kept
