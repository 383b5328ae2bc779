// How weights lie in memory. One layout serves every instruction set, so that a file of packed
// weights can be mapped anywhere.
//
// A matrix (outputs, inputs) is cut into panels of 32 outputs; inputs are padded with zeros to a
// multiple of 32, outputs to whole panels. Within a panel, for each step of inputs, 32 columns:
//
//   fp32   step of 1 input     column                        float
//   bf16   step of 2           column, input                 bf16
//   int8   step of 4           4 columns, pair, column, input: 16 bytes a block of 4 columns
//   int4   step of 8           column, input % 2             16 bits, nibble i is input pair i
//   mxfp4  as int4, with other levels
//   q8_0   as int8
//   q4_0   as int4, with the levels -8 to 7
//
// Scales: int8 one float an output; the others of codes one an output and group of 32 inputs, as
// (panel, group, column): bf16 of int4 and mxfp4, fp16 of q8_0 and q4_0, the blocks of GGUF files.
// A gated matrix interleaves: a panel holds 16 gates, then their 16 ups.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kept {

constexpr int kPanel = 32;  // outputs
constexpr int kGroup = 32;  // inputs that share a group's scale, and what inputs are padded to

enum class Format { fp32, bf16, int8, int4, mxfp4, q8_0, q4_0 };

// Whether weights are codes of four bits.
constexpr bool is_nibbles(Format f) {
    return f == Format::int4 || f == Format::mxfp4 || f == Format::q4_0;
}
// Of eight bits.
constexpr bool is_bytes(Format f) {
    return f == Format::int8 || f == Format::q8_0;
}

// What each group of 32 inputs of an output is scaled by.
enum class GroupScales { none, bf16, fp16 };

constexpr GroupScales group_scales_of(Format f) {
    return f == Format::q8_0 || f == Format::q4_0    ? GroupScales::fp16
           : f == Format::int4 || f == Format::mxfp4 ? GroupScales::bf16
                                                     : GroupScales::none;
}
constexpr bool is_grouped(Format f) {
    return group_scales_of(f) != GroupScales::none;
}
// Whether the codes are whole numbers, which activations of int8 are multiplied by.
constexpr bool is_whole(Format f) {
    return (is_bytes(f) || is_nibbles(f)) && f != Format::mxfp4;
}

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) {
    return (n + step - 1) / step * step;
}

// Inputs of a part, where `inputs` are cut into as few and as even parts as may be: whole 32s, and
// no more than `most`, which is that too.
constexpr std::int64_t even_part(std::int64_t inputs, std::int64_t most) {
    const std::int64_t parts = (inputs + most - 1) / most;
    return round_up((inputs + parts - 1) / parts, kGroup);
}

constexpr int step_inputs(Format f) {
    return f == Format::fp32 ? 1 : f == Format::bf16 ? 2 : is_bytes(f) ? 4 : 8;
}

// Bytes of one panel's step of inputs: 128 in every format.
constexpr int kStepBytes = 128;

constexpr std::int64_t panel_bytes(Format f, std::int64_t padded_inputs) {
    return padded_inputs / step_inputs(f) * kStepBytes;
}

// A packed matrix; the memory is the caller's.
struct Weights {
    Format format = Format::bf16;
    bool gated = false;
    std::int64_t num_out = 0, num_in = 0;  // as in the model; a gated matrix counts both halves
    const std::byte* data = nullptr;
    const float* channel_scales = nullptr;        // int8: (panels * 32)
    const std::uint16_t* group_scales = nullptr;  // of groups: (panels, padded_in / 32, 32)
    const float* bias = nullptr;                  // (panels * 32) in packed order, or null

    std::int64_t padded_in() const { return round_up(num_in, kGroup); }
    // Outputs of the half of a gated matrix, or all.
    std::int64_t width() const { return gated ? num_out / 2 : num_out; }
    std::int64_t panel_width() const { return gated ? kPanel / 2 : kPanel; }
    std::int64_t num_panels() const { return (width() + panel_width() - 1) / panel_width(); }
    std::int64_t num_groups() const { return padded_in() / kGroup; }
    std::int64_t bytes_per_panel() const { return panel_bytes(format, padded_in()); }
    // Where output `row` of the model's matrix lies: 32 * panel + column.
    std::int64_t place(std::int64_t row) const {
        if (!gated) return row;
        const std::int64_t half = row / width(), index = row % width();
        return index / 16 * kPanel + half * 16 + index % 16;
    }
};

// Sixteen levels of 4-bit codes, twice over, as bf16; and for int8 the low and the high byte of the
// bf16 of 0 to 63. In pack.cpp.
extern const std::uint16_t kInt4Levels[32];
// The same of mxfp4: the numbers of e2m1 (OCP Microscaling Formats, 2023).
extern const std::uint16_t kFp4Levels[32];
// The same of q4_0, and of the nibbles of int4 keys and values: -8 to 7.
extern const std::uint16_t kNibbleLevels[32];
extern const std::uint8_t kInt8Tables[128];
// The levels of 4-bit codes as int8, and then with 128 added as bytes without a sign.
constexpr int kNumInt4Levels = 16;
extern const std::uint8_t kInt4Bytes[2 * kNumInt4Levels];
extern const std::uint8_t kNibbleBytes[2 * kNumInt4Levels];  // of q4_0

}  // namespace kept
