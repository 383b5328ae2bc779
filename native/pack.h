// Between plain matrices and packed ones (layout.h). Work is shared by the pool's threads.
#pragma once

#include "layout.h"

namespace kept {

enum class Source { fp32, bf16, fp16 };

// Packs (num_out, num_in) numbers as fp32 or bf16 into `data` of num_panels * bytes_per_panel.
// fp32 to bf16 rounds to nearest even.
void pack_floats(const Weights& shape, const void* source, Source type, std::byte* data);

// Packs codes (num_out, num_in): of eight bits, or those of four, 0 to 15, a byte each.
void pack_codes(const Weights& shape, const std::int8_t* codes, std::byte* data);
// And back: the codes as they were.
void unpack_codes(const Weights& packed, std::int8_t* codes);

// Packs scales of groups (num_out, groups), of 16 bits, into (panels, groups, 32).
void pack_group_scales(const Weights& shape, const std::uint16_t* scales, std::uint16_t* out);
void unpack_group_scales(const Weights& packed, std::uint16_t* scales);

// Packs one number an output (bias, int8 scales) into (panels * 32), zeros where there is none.
void pack_outputs(const Weights& shape, const float* values, float* out);

// The numbers themselves (num_out, num_in), as floats.
void unpack(const Weights& packed, float* out);

}  // namespace kept
