// Low-rank additions to linear layers, which rows of a step take on by the sequence they belong to.
// src/kept/ops/adapters.py is the specification.
//
//   x (in) ── down (R, in) ──> R numbers, each times its scale ── up (R, out) ──> added to the
//   layer's own sums before anything becomes of them
//
// An adapter of a fused matrix has parts, each of which reaches some of its outputs alone: their
// ranks stand one behind the other, and a strip of 16 outputs holds the numbers of those that reach
// it.
//
//   outputs    q q q q k k v v          a strip of q: ranks 0 to 3, of k: 4 to 7, of v: 8 to 11
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kept {

constexpr int kStrip = 16;  // outputs, in the order of panels

// The ranks that reach a strip, and where their numbers begin: one behind the other, 16 each.
struct Strip {
    std::int64_t first, last, at;
};

// One adapter of one linear layer; the memory is the caller's. rank 0: it leaves the layer alone.
struct LowRank {
    std::int64_t rank = 0;
    bool is_bf16 = false;                  // or floats
    const void* down = nullptr;            // (rank, padded inputs)
    const void* up = nullptr;              // of strips
    const float* scales = nullptr;         // (rank)
    const std::int64_t* strips = nullptr;  // (strips, 3) as `Strip`
    std::int64_t padded_in = 0, num_strips = 0;

    Strip strip(std::int64_t index) const {
        const std::int64_t* found = strips + 3 * index;
        return {found[0], found[1], found[2]};
    }
};

// All adapters of one linear layer, by their numbers.
struct Adapters {
    std::vector<LowRank> each;
    std::int64_t rank = 0;  // the largest
};

// Which rows of a step go through which adapter.
class AdaptedRows {
  public:
    // Those of one adapter, in ascending order.
    struct Group {
        std::int64_t adapter, first, count;
    };

    // of: the adapter of each sequence, -1: none; or nothing at all. starts: as of a step. Throws
    // std::bad_alloc.
    void gather(const std::vector<std::int64_t>& of, const std::vector<std::int64_t>& starts);

    bool empty() const { return groups_.empty(); }
    const std::vector<Group>& groups() const { return groups_; }
    const std::int32_t* rows(const Group& group) const { return rows_.data() + group.first; }
    // Of each row its adapter, -1: none.
    const std::int32_t* adapter_of() const { return adapter_of_.data(); }

  private:
    std::vector<Group> groups_;
    std::vector<std::int32_t> rows_, adapter_of_;
};

constexpr std::int64_t kShrinkRanks = 4, kShrinkRows = 64;  // of one unit of work

// The numbers of some rows in so many ranks.
struct ShrinkArgs {
    const void* x;  // rows of the layer's inputs
    std::int64_t x_stride;
    bool is_bf16;  // the rows
    const LowRank* adapter;
    const std::int32_t* rows;
    std::int64_t num_rows;
    float* narrow;  // (rows of the step, stride)
    std::int64_t narrow_stride;
};

// What these come to as outputs.
struct ExpandArgs {
    const LowRank* adapter;
    const std::int32_t* rows;
    std::int64_t num_rows;
    const float* narrow;
    std::int64_t narrow_stride;
    float* sums;  // (rows of the step, stride), in the order of panels
    std::int64_t sums_stride;
};

// What rows take on beside a linear layer's own sums; without data: nothing.
struct Addend {
    const float* data = nullptr;  // (rows, stride), in the order of panels
    std::int64_t stride = 0;
    const std::int32_t* adapter_of = nullptr;  // of each row, -1: it takes on nothing

    const float* of(std::int64_t row, std::int64_t first) const {
        return data && adapter_of[row] >= 0 ? data + row * stride + first : nullptr;
    }
};

}  // namespace kept
