// Kernels, packing and programs for Python. Addresses come as integers: the tensors they belong to
// are checked and kept alive by kept.ops.packed and kept.ops.program, the public faces.
#include "bindings_kernels.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <tuple>

#include "dispatch.h"
#include "memory.h"
#include "pack.h"
#include "pool.h"
#include "program.h"
#include "quantize.h"
#include "repeat.h"
#include "torch_team.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kept {
namespace {

using Address = std::uintptr_t;
using Release = nb::call_guard<nb::gil_scoped_release>;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

std::vector<std::string> names_of(const std::vector<const Kernels*>& list) {
    std::vector<std::string> names;
    for (const Kernels* kernels : list) names.emplace_back(kernels->name);
    return names;
}

// A byte tensor of zeroed memory on huge pages.
nb::ndarray<nb::pytorch, std::uint8_t> zeros(std::size_t bytes) {
    std::byte* memory = allocate_zeros(bytes);
    nb::capsule owner(memory, [](void* p) noexcept { free_memory(p); });
    return nb::ndarray<nb::pytorch, std::uint8_t>(memory, {bytes}, owner);
}

Weights make_weights(Format format, bool gated, std::int64_t num_out, std::int64_t num_in,
                     Address data, Address channel_scales, Address group_scales, Address bias) {
    Weights w;
    w.format = format;
    w.gated = gated;
    w.num_out = num_out;
    w.num_in = num_in;
    w.data = at<const std::byte>(data);
    w.channel_scales = at<const float>(channel_scales);
    w.group_scales = at<const std::uint16_t>(group_scales);
    w.bias = at<const float>(bias);
    return w;
}

AttentionShape make_shape(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim,
                          float scale, bool causal, std::int64_t window, std::int64_t sinks,
                          float softcap) {
    return {heads, kv_heads, head_dim, scale, causal, window, sinks, softcap};
}

// (ring, capacity, sinks, window) of each layout.
using LayoutTuple = std::tuple<bool, std::int64_t, std::int64_t, std::int64_t>;

// (slots, heads, capacity, entries) of each layer's buffers.
using RoomTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

Step make_step(std::int64_t rows, Address tokens, Address positions,
               std::vector<std::int64_t> starts, std::vector<std::int64_t> slots,
               std::vector<std::vector<std::int64_t>> lengths, Address wanted,
               std::int64_t num_wanted, Address cos, Address sin, Address rope_rows,
               const std::vector<LayoutTuple>& layouts, Codec keys, Codec values,
               std::int64_t num_sinks, const std::vector<Address>& buffers,
               const std::vector<std::int64_t>& layer_layouts, const std::vector<RoomTuple>& rooms,
               Address logits, std::int64_t vocabulary, std::int64_t top_k) {
    Step s;
    s.rows = rows;
    s.tokens = at<const std::int64_t>(tokens);
    s.positions = at<const std::int64_t>(positions);
    s.starts = std::move(starts);
    s.slots = std::move(slots);
    s.lengths = std::move(lengths);
    s.wanted = at<const std::int64_t>(wanted);
    s.num_wanted = num_wanted;
    s.cos = at<const float>(cos);
    s.sin = at<const float>(sin);
    s.rope_rows = at<const std::int64_t>(rope_rows);
    for (const auto& [ring, capacity, sinks, window] : layouts)
        s.layouts.push_back({ring, capacity, sinks, window});
    // Six addresses a layer: keys, their scales and first tokens, values and theirs.
    if (buffers.size() != 6 * layer_layouts.size())
        throw std::invalid_argument("a step takes six addresses a layer");
    if (rooms.size() != layer_layouts.size())
        throw std::invalid_argument("a step takes the size of each layer's buffers");
    const auto stored = [&](Codec codec, std::size_t first) {
        auto* sinks = at<std::uint16_t>(buffers[first + 2]);
        return Stored{codec, at<std::byte>(buffers[first]), at<std::uint16_t>(buffers[first + 1]),
                      sinks, sinks ? num_sinks : 0};
    };
    for (std::size_t i = 0; i < layer_layouts.size(); ++i) {
        const auto& [slots, heads, capacity, entries] = rooms[i];
        s.layers.push_back({stored(keys, 6 * i),
                            stored(values, 6 * i + 3),
                            layer_layouts[i],
                            {slots, heads, capacity, entries}});
    }
    s.logits = at<float>(logits);
    s.vocabulary = vocabulary;
    s.top_k = top_k;
    return s;
}

using BestPairs = std::vector<std::pair<float, std::int32_t>>;

BestPairs best_as_pairs(const Program& program) {
    BestPairs found;
    for (const Best& best : program.best()) found.emplace_back(best.value, best.index);
    return found;
}

// One call for a whole step: what Python does between two of them is time the kernels wait.
BestPairs run_repeat(Repeat& repeat, const std::vector<std::int64_t>& tokens) {
    {
        nb::gil_scoped_release release;
        repeat.run(tokens);
    }
    BestPairs found;
    for (const Best& best : repeat.best()) found.emplace_back(best.value, best.index);
    return found;
}

void bind_packing(nb::module_& m) {
    nb::enum_<Format>(m, "Format")
        .value("fp32", Format::fp32)
        .value("bf16", Format::bf16)
        .value("int8", Format::int8)
        .value("int4", Format::int4);
    nb::enum_<Source>(m, "Source")
        .value("fp32", Source::fp32)
        .value("bf16", Source::bf16)
        .value("fp16", Source::fp16);
    nb::class_<Weights>(m, "Weights")
        .def_prop_ro("num_panels", &Weights::num_panels)
        .def_prop_ro("num_groups", &Weights::num_groups)
        .def_prop_ro("bytes_per_panel", &Weights::bytes_per_panel);
    m.def("weights", &make_weights, "format"_a, "gated"_a, "num_out"_a, "num_in"_a, "data"_a = 0,
          "channel_scales"_a = 0, "group_scales"_a = 0, "bias"_a = 0);
    m.def(
        "pack_floats",
        [](const Weights& shape, Address source, Source type, Address data) {
            pack_floats(shape, at<const void>(source), type, at<std::byte>(data));
        },
        Release());
    m.def(
        "pack_codes",
        [](const Weights& shape, Address codes, Address data) {
            pack_codes(shape, at<const std::int8_t>(codes), at<std::byte>(data));
        },
        Release());
    m.def(
        "unpack_codes",
        [](const Weights& w, Address codes) { unpack_codes(w, at<std::int8_t>(codes)); },
        Release());
    m.def(
        "pack_group_scales",
        [](const Weights& shape, Address scales, Address out) {
            pack_group_scales(shape, at<const std::uint16_t>(scales), at<std::uint16_t>(out));
        },
        Release());
    m.def(
        "unpack_group_scales",
        [](const Weights& w, Address scales) { unpack_group_scales(w, at<std::uint16_t>(scales)); },
        Release());
    m.def(
        "pack_outputs",
        [](const Weights& shape, Address values, Address out) {
            pack_outputs(shape, at<const float>(values), at<float>(out));
        },
        Release());
    m.def(
        "quantize",
        [](const std::string& isa, Format format, Address source, bool is_bf16,
           std::int64_t num_rows, std::int64_t num_in, Address codes, Address scales) {
            const Kernels* kernels = find_kernels(isa.c_str());
            if (!kernels) throw std::invalid_argument("no kernels for " + isa);
            return quantize(*kernels, {format, at<const void>(source), is_bf16, num_rows, num_in,
                                       at<std::int8_t>(codes), at<void>(scales)});
        },
        Release());
    m.def("unpack", [](const Weights& w, Address out) { unpack(w, at<float>(out)); }, Release());
}

void bind_program(nb::module_& m) {
    nb::enum_<Epilogue>(m, "Epilogue")
        .value("store", Epilogue::store)
        .value("add", Epilogue::add)
        .value("activate", Epilogue::activate)
        .value("gate", Epilogue::gate)
        .value("logits", Epilogue::logits);
    nb::enum_<Activation>(m, "Activation")
        .value("none", Activation::none)
        .value("silu", Activation::silu)
        .value("gelu", Activation::gelu)
        .value("gelu_tanh", Activation::gelu_tanh)
        .value("relu", Activation::relu);
    nb::enum_<Codec>(m, "Codec")
        .value("fp32", Codec::fp32)
        .value("bf16", Codec::bf16)
        .value("fp16", Codec::fp16)
        .value("int8", Codec::int8)
        .value("int4", Codec::int4);
    m.def(
        "encode_heads",
        [](const std::string& isa, Codec codec, bool turns, Address heads, std::int64_t num_heads,
           std::int64_t head_dim, Address codes, Address scales) {
            const Kernels* kernels = find_kernels(isa.c_str());
            if (!kernels) throw std::invalid_argument("no kernels are called " + isa);
            if (head_dim < 1 || head_dim > kMaxHeadDim)
                throw std::invalid_argument("heads of " + std::to_string(head_dim));
            const Stored to{codec, at<std::byte>(codes), at<std::uint16_t>(scales), nullptr, 0};
            encode_heads(*kernels, {to, turns, at<const float>(heads), head_dim}, num_heads);
        },
        Release());
    nb::class_<AttentionShape>(m, "AttentionShape");
    m.def("attention_shape", &make_shape, "heads"_a, "kv_heads"_a, "head_dim"_a, "scale"_a,
          "causal"_a, "window"_a, "sinks"_a, "softcap"_a);
    nb::class_<Step>(m, "Step");
    m.def("step", &make_step, "rows"_a, "tokens"_a, "positions"_a, "starts"_a, "slots"_a,
          "lengths"_a, "wanted"_a, "num_wanted"_a, "cos"_a, "sin"_a, "rope_rows"_a, "layouts"_a,
          "keys"_a, "values"_a, "num_sinks"_a, "buffers"_a, "layer_layouts"_a, "rooms"_a,
          "logits"_a, "vocabulary"_a, "top_k"_a);
    nb::class_<Program>(m, "Program")
        .def(nb::init<const std::string&>(), "isa"_a)
        .def("add_buffer", &Program::add_buffer, "width"_a, "is_bf16"_a)
        .def("add_weights", &Program::add_weights, "weights"_a)
        .def("embed",
             [](Program& p, int table, Address position_table, std::int64_t num_positions, int out,
                float scale) {
                 p.embed(table, at<const float>(position_table), num_positions, out, scale);
             })
        .def("norm",
             [](Program& p, int x, Address weight, Address bias, float eps, int out, bool wanted,
                bool add) {
                 p.norm(x, at<const float>(weight), at<const float>(bias), eps, out, wanted, add);
             })
        .def("linear", &Program::linear)
        .def("place",
             [](Program& p, int qkv, int queries, std::int64_t layer, const AttentionShape& shape,
                Address q_norm, Address k_norm, float eps, std::int64_t rope_dim,
                std::int64_t rope_begin, std::int64_t rope_stride) {
                 p.place(qkv, queries, layer, shape, at<const float>(q_norm),
                         at<const float>(k_norm), eps, rope_dim, rope_begin, rope_stride);
             })
        .def("attend", &Program::attend)
        .def_prop_ro("num_ops", &Program::num_ops)
        .def("run", &Program::run, "step"_a, "first"_a, "last"_a, "among_torch"_a = false,
             Release())
        .def_prop_ro("best", &best_as_pairs)
        .def_prop_ro("top_shape", [](const Program& p) { return p.top().shape(); })
        .def("read_top",
             [](const Program& p, Address values, Address tokens) {
                 std::ranges::copy(p.top().values(), at<float>(values));
                 std::ranges::copy(p.top().tokens(), at<std::int64_t>(tokens));
             })
        .def("read_buffer", [](const Program& p, int buffer, std::int64_t rows,
                               Address out) { p.buffer(buffer).read(rows, at<float>(out)); })
        .def("read_queries",
             [](const Program& p, int buffer, std::int64_t rows, const AttentionShape& shape,
                bool floats, Address out) {
                 p.buffer(buffer).read_queries(rows, shape, floats, at<float>(out));
             })
        .def("write_queries", [](Program& p, int buffer, std::int64_t rows,
                                 const AttentionShape& shape, bool floats, Address in) {
            p.buffer(buffer).write_queries(rows, shape, floats, at<std::byte>(in));
        });
    nb::class_<Repeat>(m, "Repeat")
        .def(nb::init<Program&, const Step&>(), "program"_a, "last"_a, nb::keep_alive<1, 2>())
        .def("run", &run_repeat, "tokens"_a);
}

}  // namespace

void bind_kernels(nb::module_& m) {
    m.def("isa_names", [] { return names_of(available_kernels()); });
    m.def("emulated_isa_names", [] { return names_of(emulated_kernels()); });
    m.def("zeros", &zeros, "bytes"_a);
    m.def("num_threads", [] { return Pool::shared().num_threads(); });
    m.def("set_num_threads", [](int n) { Pool::shared().resize(n); }, Release());
    m.def("find_torch_team", &find_torch_team, "path"_a);
    m.def("forget_torch_team", &forget_torch_team);
    bind_packing(m);
    bind_program(m);
}

}  // namespace kept
