// Packing and quantizing for Python; handed.h says what tensors must be.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>
#include <vector>

#include "bindings_kernels.h"
#include "dispatch.h"
#include "handed.h"
#include "pack.h"
#include "pack_blocks.h"
#include "pack_stored.h"
#include "quantize.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kept {
namespace {

const Kernels& kernels_called(const std::string& isa) {
    const Kernels* found = find_kernels(isa.c_str());
    if (!found) throw std::invalid_argument("no kernels are called " + isa);
    return *found;
}

std::int64_t outputs(const Weights& w) {
    return w.num_panels() * kPanel;
}

std::int64_t scales_of(const Weights& w) {
    return outputs(w) * w.num_groups();
}

std::int64_t elements(const Weights& w) {
    return w.num_out * w.num_in;
}

std::int64_t bytes(const Weights& w) {
    return w.num_panels() * w.bytes_per_panel();
}

Number group_scale_type(Format format) {
    return group_scales_of(format) == GroupScales::fp16 ? Number::fp16 : Number::bf16;
}

std::uint16_t* group_scales_in(nb::handle scales, Format format, std::int64_t count) {
    need(scales, "scales of groups");
    return reinterpret_cast<std::uint16_t*>(
        numbers(scales, group_scale_type(format), count, "scales of groups"));
}

// Of a shape alone, without data, or of a whole matrix.
Weights make_weights(Format format, bool gated, std::int64_t num_out, std::int64_t num_in,
                     nb::handle data, nb::handle channel_scales, nb::handle group_scales,
                     nb::handle bias) {
    if (num_out < 0 || num_in < 0 || (gated && num_out % 2))
        throw std::invalid_argument("no matrix has so many outputs and inputs");
    Weights w;
    w.format = format;
    w.gated = gated;
    w.num_out = num_out;
    w.num_in = num_in;
    w.data = numbers<const std::byte>(data, bytes(w), "packed weights");
    w.channel_scales = numbers<const float>(channel_scales, outputs(w), "scales of outputs");
    w.group_scales = reinterpret_cast<const std::uint16_t*>(
        numbers(group_scales, group_scale_type(format), scales_of(w), "scales of groups"));
    w.bias = numbers<const float>(bias, outputs(w), "biases");
    if (w.data && (format == Format::int8) != (w.channel_scales != nullptr))
        throw std::invalid_argument("scales of outputs belong to int8, and to nothing else");
    if (w.data && is_grouped(format) != (w.group_scales != nullptr))
        throw std::invalid_argument(
            "scales of groups belong to formats that have them, and to none else");
    return w;
}

const Weights& whole(const Weights& w) {
    if (!w.data) throw std::invalid_argument("a shape of weights has no numbers");
    return w;
}

// A byte a number: int8, or uint8 where codes are of four bits.
std::int8_t* codes_in(nb::handle codes, Format format, std::int64_t count) {
    need(codes, "codes");
    const Number type = is_nibbles(format) ? Number::u8 : Number::i8;
    return reinterpret_cast<std::int8_t*>(numbers(codes, type, count, "codes"));
}

void pack_floats_of(const Weights& shape, nb::handle source, nb::handle data) {
    const Handed from = hand(source, "weights");
    const bool fp32 = from.type == Number::fp32, bf16 = from.type == Number::bf16;
    if (from.count < elements(shape) || !(fp32 || bf16 || from.type == Number::fp16) ||
        !(shape.format == Format::fp32 || shape.format == Format::bf16))
        throw std::invalid_argument("weights are too few, or cannot be packed like this");
    std::byte* to = some<std::byte>(data, bytes(shape), "packed weights");
    const nb::gil_scoped_release release;
    pack_floats(shape, from.data, fp32 ? Source::fp32 : bf16 ? Source::bf16 : Source::fp16, to);
}

void pack_codes_of(const Weights& shape, nb::handle codes, nb::handle data) {
    const std::int8_t* from = codes_in(codes, shape.format, elements(shape));
    std::byte* to = some<std::byte>(data, bytes(shape), "packed weights");
    const nb::gil_scoped_release release;
    pack_codes(shape, from, to);
}

std::int64_t pack_blocks_of(const Weights& shape, nb::handle rows, std::int64_t first_row,
                            nb::handle data, nb::handle scales) {
    const Handed from = hand(rows, "blocks");
    const std::int64_t row_bytes = shape.num_groups() * block_bytes(shape.format);
    if (group_scales_of(shape.format) != GroupScales::fp16 || shape.num_in % kGroup)
        throw std::invalid_argument("blocks are of q8_0 or q4_0, and of 32 inputs each");
    const std::int64_t num_rows = row_bytes ? from.count / row_bytes : 0;
    if (from.type != Number::u8 || num_rows * row_bytes != from.count || first_row < 0 ||
        first_row + num_rows > shape.num_out)
        throw std::invalid_argument("blocks are no whole rows of the matrix");
    std::byte* to = some<std::byte>(data, bytes(shape), "packed weights");
    std::uint16_t* beside = group_scales_in(scales, shape.format, scales_of(shape));
    const nb::gil_scoped_release release;
    return pack_blocks(shape, from.data, first_row, num_rows, to, beside);
}

// (file, first byte, rows) of each part. Returns (how it ended, where, the system's error).
std::tuple<int, std::int64_t, int> pack_stored_of(
    const Weights& shape, const std::vector<std::tuple<int, std::int64_t, std::int64_t>>& parts,
    nb::handle data, nb::handle scales) {
    const GroupScales kind = group_scales_of(shape.format);
    const bool floats = shape.format == Format::fp32 || shape.format == Format::bf16;
    if (!floats && (kind != GroupScales::fp16 || shape.num_in % kGroup))
        throw std::invalid_argument("rows are stored as fp32, bf16, or whole blocks of q8_0, q4_0");
    std::vector<StoredRows> rows;
    std::int64_t num_rows = 0;
    for (const auto& [file, start, count] : parts) {
        if (start < 0 || count < 0 || count > shape.num_out - num_rows)
            throw std::invalid_argument("parts have other rows than the matrix");
        rows.push_back({file, start, count});
        num_rows += count;
    }
    if (num_rows != shape.num_out)
        throw std::invalid_argument("parts have other rows than the matrix");
    std::byte* to = some<std::byte>(data, bytes(shape), "packed weights");
    std::uint16_t* beside = nullptr;
    if (!floats) beside = group_scales_in(scales, shape.format, scales_of(shape));
    const nb::gil_scoped_release release;
    const PackedRows found = pack_stored(shape, rows, to, beside);
    return {static_cast<int>(found.end), found.where, found.error};
}

std::int64_t quantize_rows_of(const std::string& isa, Format format, nb::handle source,
                              std::int64_t num_rows, std::int64_t num_in, nb::handle codes,
                              nb::handle scales) {
    const Kernels& kernels = kernels_called(isa);
    const Handed from = hand(source, "weights");
    const bool bf16 = from.type == Number::bf16, int8 = format == Format::int8;
    if (num_rows < 0 || num_in < 0 || from.count < num_rows * num_in ||
        !(bf16 || from.type == Number::fp32) || !(int8 || format == Format::int4))
        throw std::invalid_argument("weights are too few, or cannot be quantized like this");
    std::int8_t* to = codes_in(codes, format, num_rows * num_in);
    const std::int64_t groups = num_rows * (round_up(num_in, kGroup) / kGroup);
    void* beside = int8 ? static_cast<void*>(some<float>(scales, num_rows, "scales"))
                        : static_cast<void*>(some<std::uint16_t>(scales, groups, "scales"));
    const nb::gil_scoped_release release;
    return quantize(kernels, {format, from.data, bf16, num_rows, num_in, to, beside});
}

void encode_heads_of(const std::string& isa, Codec codec, bool turns, nb::handle heads,
                     std::int64_t num_heads, std::int64_t head_dim, nb::handle codes,
                     nb::handle scales) {
    const Kernels& kernels = kernels_called(isa);
    if (head_dim < 1 || head_dim > kMaxHeadDim || num_heads < 0)
        throw std::invalid_argument("heads of " + std::to_string(head_dim));
    if (codec != Codec::int8 && codec != Codec::int4)
        throw std::invalid_argument("heads become codes of int8 or int4 here");
    const float* from = some<const float>(heads, num_heads * head_dim, "heads");
    need(codes, "codes");
    const Number type = codec == Codec::int4 ? Number::u8 : Number::i8;
    std::byte* to = numbers(codes, type, num_heads * code_bytes(codec, head_dim), "codes");
    auto* beside = some<std::uint16_t>(scales, num_heads * num_scales(codec, head_dim), "scales");
    const nb::gil_scoped_release release;
    const Stored stored{codec, to, beside};
    encode_heads(kernels, {stored, turns, from, head_dim}, num_heads);
}

}  // namespace

void bind_packing(nb::module_& m) {
    nb::enum_<Format>(m, "Format")
        .value("fp32", Format::fp32)
        .value("bf16", Format::bf16)
        .value("int8", Format::int8)
        .value("int4", Format::int4)
        .value("mxfp4", Format::mxfp4)
        .value("q8_0", Format::q8_0)
        .value("q4_0", Format::q4_0);
    nb::class_<Weights>(m, "Weights")
        .def_prop_ro("num_panels", &Weights::num_panels)
        .def_prop_ro("num_groups", &Weights::num_groups)
        .def_prop_ro("bytes_per_panel", &Weights::bytes_per_panel);
    m.def("weights", &make_weights, "format"_a, "gated"_a, "num_out"_a, "num_in"_a,
          "data"_a = nb::none(), "channel_scales"_a = nb::none(), "group_scales"_a = nb::none(),
          "bias"_a = nb::none(), nb::keep_alive<0, 5>(), nb::keep_alive<0, 6>(),
          nb::keep_alive<0, 7>(), nb::keep_alive<0, 8>());
    m.def("pack_floats", &pack_floats_of);
    m.def("pack_codes", &pack_codes_of);
    m.def("pack_blocks", &pack_blocks_of);
    m.def("pack_stored", &pack_stored_of, "shape"_a, "parts"_a, "data"_a, "scales"_a.none());
    m.def("unpack_codes", [](const Weights& w, nb::handle codes) {
        std::int8_t* to = codes_in(codes, whole(w).format, elements(w));
        const nb::gil_scoped_release release;
        unpack_codes(w, to);
    });
    m.def("pack_group_scales", [](const Weights& shape, nb::handle scales, nb::handle out) {
        const std::int64_t count = shape.num_out * shape.num_groups();
        const std::uint16_t* from = group_scales_in(scales, shape.format, count);
        std::uint16_t* to = group_scales_in(out, shape.format, scales_of(shape));
        const nb::gil_scoped_release release;
        pack_group_scales(shape, from, to);
    });
    m.def("unpack_group_scales", [](const Weights& w, nb::handle scales) {
        if (!w.group_scales) throw std::invalid_argument("these weights have no such scales");
        std::uint16_t* to = group_scales_in(scales, w.format, w.num_out * w.num_groups());
        const nb::gil_scoped_release release;
        unpack_group_scales(w, to);
    });
    m.def("pack_outputs", [](const Weights& shape, nb::handle values, nb::handle out) {
        const float* from = some<const float>(values, shape.num_out, "numbers of outputs");
        float* to = some<float>(out, outputs(shape), "packed numbers of outputs");
        const nb::gil_scoped_release release;
        pack_outputs(shape, from, to);
    });
    m.def("unpack", [](const Weights& w, nb::handle out) {
        float* to = some<float>(out, elements(whole(w)), "weights");
        const nb::gil_scoped_release release;
        unpack(w, to);
    });
    m.def("quantize", &quantize_rows_of);
    m.def("encode_heads", &encode_heads_of);
}

}  // namespace kept
