// Rows of activations between two operations of a program.
#pragma once

#include <memory>

#include "kernels.h"

namespace kept {

class RowBuffer {
  public:
    // Rows of `width` numbers, padded to 32. `is_bf16`: what a linear layer reads. `per_row`: how
    // many there are for each row of a step.
    RowBuffer(std::int64_t width, bool is_bf16, std::int64_t per_row = 1);
    // Rows of codes, which a linear layer of int4 or int8 weights reads.
    static RowBuffer of_codes(std::int64_t width, bool for_int4, std::int64_t per_row = 1);

    std::int64_t width() const { return width_; }
    std::int64_t stride() const { return stride_; }
    std::int64_t per_row() const { return per_row_; }
    // For how many rows of a step there is room.
    std::int64_t rows() const { return rows_; }
    // Bytes from one row to the next.
    std::int64_t row_bytes() const {
        return holds_codes_ ? codes().stride() : stride_ * (is_bf16_ ? 2 : 4);
    }
    std::byte* row(std::int64_t index) const { return memory_.get() + index * row_bytes(); }
    float* floats() const { return reinterpret_cast<float*>(memory_.get()); }
    ActRows act() const { return {memory_.get(), stride_, is_bf16_}; }
    bool holds_codes() const { return holds_codes_; }
    CodeRows codes() const { return {memory_.get(), stride_, for_int4_}; }

    // Makes room for so many rows, whatever they held. Throws std::bad_alloc.
    void reserve(std::int64_t rows);

    // Writes rows of an fp32 buffer, (rows, width).
    void read(std::int64_t rows, float* out) const;
    // Writes queries as floats, (rows, H, D), which lie in heads padded to 32. `floats`: they are
    // fp32, whatever linear layers read from this buffer.
    void read_queries(std::int64_t rows, const AttentionShape& shape, bool floats,
                      float* out) const;

    // Puts queries (rows, H, D) where `place` would, fp32 if `floats`, else bf16; makes room for
    // them.
    void write_queries(std::int64_t rows, const AttentionShape& shape, bool floats,
                       const std::byte* in);

  private:
    std::int64_t width_, stride_, per_row_, rows_ = 0;
    bool is_bf16_, holds_codes_ = false, for_int4_ = false;
    std::unique_ptr<std::byte, void (*)(void*)> memory_{nullptr, nullptr};
};

}  // namespace kept
