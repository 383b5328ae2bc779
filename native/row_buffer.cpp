#include "row_buffer.h"

#include <cstring>

#include "memory.h"

namespace kept {

RowBuffer::RowBuffer(std::int64_t width, bool is_bf16, std::int64_t per_row)
    : width_(width), stride_(round_up(width, 32)), per_row_(per_row), is_bf16_(is_bf16) {}

RowBuffer RowBuffer::of_codes(std::int64_t width, bool for_int4, std::int64_t per_row) {
    RowBuffer made(width, false, per_row);
    made.holds_codes_ = true;
    made.for_int4_ = for_int4;
    return made;
}

void RowBuffer::reserve(std::int64_t rows) {
    if (rows_ >= rows) return;
    // Zeros: kernels read the padding of rows, into which only zeros are ever written.
    const auto bytes =
        static_cast<std::size_t>(rows * per_row_ * (holds_codes_ ? codes().stride() : stride_ * 4));
    memory_ = {nullptr, nullptr};
    rows_ = 0;
    memory_ = {allocate_zeros(bytes), free_memory};
    rows_ = rows;
}

void RowBuffer::read(std::int64_t rows, float* out) const {
    for (std::int64_t row = 0; row < rows; ++row)
        std::memcpy(out + row * width_, floats() + row * stride_,
                    static_cast<std::size_t>(width_) * 4);
}

void RowBuffer::read_queries(std::int64_t rows, const AttentionShape& shape, bool floats,
                             float* out) const {
    const std::int64_t padded = round_up(shape.head_dim, 32);
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t head = 0; head < shape.heads; ++head)
            for (std::int64_t d = 0; d < shape.head_dim; ++d) {
                const std::int64_t at = row * stride_ + head * padded + d;
                float x;
                if (floats) {
                    x = reinterpret_cast<const float*>(memory_.get())[at];
                } else {
                    const std::uint32_t bits =
                        static_cast<std::uint32_t>(
                            reinterpret_cast<const std::uint16_t*>(memory_.get())[at])
                        << 16;
                    std::memcpy(&x, &bits, sizeof x);
                }
                out[(row * shape.heads + head) * shape.head_dim + d] = x;
            }
}

void RowBuffer::write_queries(std::int64_t rows, const AttentionShape& shape, bool floats,
                              const std::byte* in) {
    reserve(rows);
    const std::int64_t size = floats ? 4 : 2, padded = round_up(shape.head_dim, 32);
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t head = 0; head < shape.heads; ++head) {
            std::byte* to = memory_.get() + (row * stride_ + head * padded) * size;
            const auto width = static_cast<std::size_t>(shape.head_dim * size);
            std::memcpy(to, in + (row * shape.heads + head) * shape.head_dim * size, width);
            // What lay there may have been numbers of another size.
            std::memset(to + width, 0, static_cast<std::size_t>(padded * size) - width);
        }
}

}  // namespace kept
