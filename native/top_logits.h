// The largest logits of a row, gathered while the head passes over its outputs.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace kept {

// What one thread has gathered of a row: at least the k largest of the logits it has seen. Each is
// a rank, a number that orders tokens as `rank` in finish.h says. On a cache line of its own:
// threads write theirs all the while.
struct alignas(64) TopRow {
    std::uint64_t* ranks;
    std::int32_t k, room, count;
    bool is_open;  // nothing has been cut yet, so nothing is turned away
    float floor;   // else what a later logit has to exceed
};

// Keeps the k largest, which makes room and raises the floor.
void cut(TopRow& row);

// What all threads gather of all rows.
class TopLogits {
  public:
    // Begins anew. k 0: nothing is gathered.
    void begin(std::int64_t threads, std::int64_t rows, std::int64_t k);
    // Joins what threads have found in logits (rows, vocabulary), which has at least k columns.
    void finish(const float* logits, std::int64_t vocabulary);

    // Rows and k of the last finish; no rows before.
    std::pair<std::int64_t, std::int64_t> shape() const {
        return {tokens_.empty() ? 0 : rows_, k_};
    }
    // (rows) of a thread, or null: nothing is gathered.
    TopRow* rows_of(int thread);
    // (rows, k) of the last finish, the largest first: NaN before any number, and of equal ones the
    // lower token. Empty before.
    const std::vector<float>& values() const { return values_; }
    const std::vector<std::int64_t>& tokens() const { return tokens_; }

  private:
    std::int64_t rows_ = 0, k_ = 0;
    std::vector<std::uint64_t> ranks_;
    std::vector<TopRow> found_;  // (threads, rows)
    std::vector<float> values_;
    std::vector<std::int64_t> tokens_;
};

}  // namespace kept
