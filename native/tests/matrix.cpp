#include "held.h"

namespace kept {

const char* name_of(Format format) {
    constexpr const char* kNames[] = {"fp32", "bf16", "int8", "int4", "mxfp4", "q8_0", "q4_0"};
    return kNames[static_cast<int>(format)];
}

const char* name_of(Codec codec) {
    constexpr const char* kNames[] = {"fp32", "bf16", "fp16", "int8", "int4"};
    return kNames[static_cast<int>(codec)];
}

Matrix::Matrix(Random& random, Format format, std::int64_t num_out, std::int64_t num_in,
               bool gated) {
    weights.format = format, weights.gated = gated;
    weights.num_out = num_out, weights.num_in = num_in;
    const std::int64_t outputs = weights.num_panels() * kPanel, groups = weights.num_groups();
    data = zeros<std::byte>(weights.num_panels() * weights.bytes_per_panel());
    if (format == Format::fp32 || format == Format::bf16) {
        const std::vector<float> source = random.normals(num_out * num_in);
        pack_floats(weights, source.data(), Source::fp32, data.data());
    } else {
        const bool bytes = is_bytes(format);
        std::vector<std::int8_t> codes = zeros<std::int8_t>(num_out * num_in);
        for (std::int8_t& code : codes)
            code = static_cast<std::int8_t>(bytes ? random.below(255) - 127 : random.below(16));
        pack_codes(weights, codes.data(), data.data());
        if (format == Format::int8) {
            const std::vector<float> scales = random.normals(num_out);
            channel_scales = zeros<float>(outputs);
            pack_outputs(weights, scales.data(), channel_scales.data());
            weights.channel_scales = channel_scales.data();
        } else {
            std::vector<std::uint16_t> scales = zeros<std::uint16_t>(num_out * groups);
            // Bits of fp16 are those of finite numbers below 2, and subnormal ones among them.
            const bool halves = group_scales_of(format) == GroupScales::fp16;
            for (std::uint16_t& scale : scales)
                scale =
                    halves
                        ? static_cast<std::uint16_t>(random.below(2) << 15 | random.below(0x4000))
                        : rounded(random.normal());
            group_scales = zeros<std::uint16_t>(outputs * groups);
            pack_group_scales(weights, scales.data(), group_scales.data());
            weights.group_scales = group_scales.data();
        }
    }
    const std::vector<float> added = random.normals(num_out);
    bias = zeros<float>(outputs);
    pack_outputs(weights, added.data(), bias.data());
    weights.bias = bias.data(), weights.data = data.data();
    numbers = zeros<float>(num_out * num_in);
    unpack(weights, numbers.data());
}

}  // namespace kept
