// Matrix tiles: eight registers of up to 16 rows of 64 bytes, and one instruction that multiplies
// two of them as bf16 and adds the product to a third.
//
//   sums (rows, 16) floats  +=  a (rows, 32) bf16
//                               times  b (16 pairs of inputs, 16 columns, 2) bf16
//
// Those of the second kind leave vectors in registers where they are, as the others do not: the
// compiler takes what it is told of no memory for one that may read and write any.
//
// Kernels are written over a policy with these static functions, numbers of tiles being constants:
//
//   configure(config), release()     every tile's shape; tiles are zero afterwards
//   zero<t>()
//   load<t>(from, stride)            the rows and columns of t's shape, `stride` bytes between rows
//   load_passing<t>(from, stride)    the same, of what the nearest cache had better not keep
//   store<t>(to, stride)
//   settle()                         what is written to memory before is there for these, and what
//                                    is written after is not:
//   load_settled<t>(from, stride), load_settled_passing<t>(from, stride)
//   store_rows<t>(to)                rows one behind the other, in room for 16
//   dot<c, a, b>()                   c += a b
#pragma once

#include <cstdint>

namespace kept {

// What LDTILECFG reads.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr int kNumTiles = 8;
constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;

}  // namespace kept
