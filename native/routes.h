// Which experts the rows of a step go to. src/kept/ops/mixture.py is the specification.
//
// What experts work on lies in slots, one for each row and expert that it chose, those of an expert
// together, in ascending order of experts and then of rows:
//
//   row 0 chose 1 4     slots   0       1       2       3
//   row 1 chose 0 4             e 0     e 1     e 4     e 4
//                               row 1   row 0   row 0   row 1
#pragma once

#include <cstdint>
#include <vector>

namespace kept {

// How a row chooses among experts by its scores: the top_k highest, of equal ones the first.
struct Routing {
    std::int64_t num_experts, top_k;
    bool normalised;       // weights are those of the chosen alone, which add up to 1
    bool is_shared;        // a score behind those of the experts is the gate of one that is shared
    bool sigmoid = false;  // weights are sigmoids of the scores, else their softmax
    float scale = 1;       // of the weights
    const float* bias = nullptr;  // (num_experts), on sigmoids, for the choice alone; or null
    // Experts lie in so many groups of one size, of which a row chooses from the best top_groups:
    // by the sum of so many of their highest scores.
    std::int64_t num_groups = 1, top_groups = 1, group_best = 1;

    std::int64_t group_size() const { return num_experts / num_groups; }
};

constexpr std::int64_t kMostGroupBest = 8;  // scores that decide for a group

// An expert that some rows chose, and their slots.
struct Chosen {
    std::int64_t expert, first, count;
};

class Routes {
  public:
    // Makes room for so many rows. Throws std::bad_alloc.
    void reserve(const Routing& routing, std::int64_t rows);

    // Has rows [first, last) choose by scores (rows, stride). Rows may be shared among threads.
    void choose(const Routing& routing, const float* scores, std::int64_t stride,
                std::int64_t first_row, std::int64_t last_row, float* scratch);
    // Floats of scratch that choosing needs.
    static std::int64_t choice_scratch(const Routing& routing) {
        return routing.num_experts + routing.num_groups;
    }
    // Gives slots to rows that have chosen.
    void group(const Routing& routing, std::int64_t rows);

    const std::vector<Chosen>& chosen() const { return chosen_; }
    // Of each slot, which row it is.
    const std::int32_t* rows() const { return rows_.data(); }
    // Of a row, the slots of its experts in ascending order, and their weights; behind these that
    // of the shared one, if there is one.
    const std::int32_t* slots(std::int64_t row) const { return slots_.data() + row * top_k_; }
    const float* weights(std::int64_t row) const { return weights_.data() + row * (top_k_ + 1); }

  private:
    std::int64_t top_k_ = 0;
    std::vector<std::int32_t> experts_;  // (rows, top_k) ascending
    std::vector<float> weights_;         // (rows, top_k + 1)
    std::vector<std::int32_t> slots_, rows_, next_;
    std::vector<Chosen> chosen_;
};

constexpr std::int64_t kCombined = 512;  // columns of a row that are added up together

// Adds up what the experts of each row made of it, weighed, in ascending order of experts, and
// behind them the shared one.
struct CombineArgs {
    const Routes* routes;
    std::int64_t top_k, width;
    const float* x;  // of slots
    std::int64_t x_stride;
    const float* shared;  // of rows, or null
    std::int64_t shared_stride;
    float* out;
    std::int64_t out_stride;
    bool add;  // to what is there

    std::int64_t num_parts() const { return (width + kCombined - 1) / kCombined; }  // of a row
};

}  // namespace kept
