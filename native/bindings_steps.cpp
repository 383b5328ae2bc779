// What steps are made of, for Python: layers, layouts and tables. Tensors are checked as handed.h
// says, and kept alive by what is made of them.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <tuple>

#include "bindings_kernels.h"
#include "handed.h"
#include "step.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kept {
namespace {

// The first argument (0: the result) holds the second for as long as it lives.
template <std::size_t Holder, std::size_t Held>
using Keep = nb::keep_alive<Holder, Held>;

AttentionShape make_shape(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim,
                          float scale, bool causal, std::int64_t window, std::int64_t sinks,
                          float softcap, std::int64_t value_dim, bool in_keys) {
    if (value_dim == 0) value_dim = head_dim;
    return {heads, kv_heads, head_dim, scale, causal, window, sinks, softcap, value_dim, in_keys};
}

// (tokens of a block, sinks, window) of each layout.
using LayoutTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t>;
// (sequences, columns) blocks; the step reads them where they lie.
using Table = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

StepTable read_table(const Table& table, std::int64_t num_sequences) {
    if (static_cast<std::int64_t>(table.shape(0)) != num_sequences || table.shape(1) == 0)
        throw std::invalid_argument("a table has a row of blocks for each sequence of a step");
    return {{table.data(), table.data() + table.size()}, static_cast<std::int64_t>(table.shape(1))};
}

// The buffers of all layers, made once for as long as they stay the same.
struct Layers {
    std::vector<LayerStores> each;
};

// buffers: for each layer codes and scales of its keys, and of its values.
Layers make_layers(Codec keys, Codec values, const std::vector<nb::tuple>& buffers,
                   const std::vector<std::int64_t>& layouts) {
    if (buffers.size() != layouts.size())
        throw std::invalid_argument("each layer has its buffers and its layout");
    Layers made;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
        const nb::tuple& b = buffers[i];
        if (b.size() != 4) throw std::invalid_argument("a layer has four buffers, or None");
        made.each.push_back(
            {hand_side(keys, b[0], b[1]), hand_side(values, b[2], b[3]), layouts[i]});
    }
    return made;
}

// Adds encoder inputs to a step: layers of each, made once for as long as they stay the same.
void add_inputs(Step& s, const std::vector<const Layers*>& inputs,
                std::vector<std::int64_t> lengths, std::vector<std::int64_t> of) {
    if (inputs.size() != lengths.size())
        throw std::invalid_argument("each encoder input has its layers and its length");
    s.inputs.of = std::move(of);
    s.inputs.lengths = std::move(lengths);
    const auto sequences = static_cast<std::size_t>(s.num_sequences());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        const auto& layers = inputs[i]->each;
        const auto layout = static_cast<std::int64_t>(s.layouts.size());
        if (i == 0) s.inputs.layers = static_cast<std::int64_t>(layers.size());
        if (static_cast<std::int64_t>(layers.size()) != s.inputs.layers)
            throw std::invalid_argument("encoder inputs differ in their layers");
        for (const LayerStores& layer : layers) {
            s.layers.push_back({layer.keys, layer.values, layout});
            const LayerStores& first = s.layers[static_cast<std::size_t>(s.inputs.first_layer)];
            if (layer.keys.stored.codec != first.keys.stored.codec ||
                layer.values.stored.codec != first.values.stored.codec)
                throw std::invalid_argument("encoder inputs differ in their codecs");
        }
        const std::int64_t length = s.inputs.lengths[i];
        s.layouts.push_back({length, 0, -1});
        s.tables.push_back({std::vector<std::int32_t>(sequences), 1});
        std::vector<std::int64_t> seen(sequences);
        for (std::size_t b = 0; b < sequences && b < s.inputs.of.size(); ++b)
            if (s.inputs.of[b] == static_cast<std::int64_t>(i)) seen[b] = length;
        s.lengths.push_back(std::move(seen));
    }
}

Step make_step(std::int64_t rows, nb::handle tokens, nb::handle positions,
               std::vector<std::int64_t> starts, const std::vector<Table>& tables,
               std::vector<std::vector<std::int64_t>> lengths, nb::handle wanted,
               std::int64_t num_wanted, nb::handle cos, nb::handle sin, nb::handle rope_rows,
               const std::vector<LayoutTuple>& layouts, const Layers& layers, nb::handle logits,
               std::int64_t vocabulary, std::int64_t top_k,
               const std::vector<const Layers*>& inputs, std::vector<std::int64_t> input_lengths,
               std::vector<std::int64_t> input_of, std::vector<std::int64_t> adapters) {
    if (rows < 0 || num_wanted < 0 || vocabulary < 0)
        throw std::invalid_argument("a step counts from zero");
    Step s;
    s.rows = rows;
    s.tokens = numbers<const std::int64_t>(tokens, rows, "tokens");
    s.positions = numbers<const std::int64_t>(positions, rows, "positions");
    s.starts = std::move(starts);
    s.lengths = std::move(lengths);
    s.wanted = numbers<const std::int64_t>(wanted, num_wanted, "wanted rows");
    s.num_wanted = num_wanted;
    s.rope_count = hand(cos, "cosines").count;
    s.cos = numbers<const float>(cos, s.rope_count, "cosines");
    s.sin = numbers<const float>(sin, s.rope_count, "sines");
    s.rope_rows = numbers<const std::int64_t>(rope_rows, rows, "rows of the rotary tables");
    for (const auto& [block, sinks, window] : layouts) s.layouts.push_back({block, sinks, window});
    for (const Table& table : tables) s.tables.push_back(read_table(table, s.num_sequences()));
    s.layers = layers.each;
    s.logits = numbers<float>(logits, num_wanted * vocabulary, "logits");
    s.vocabulary = vocabulary;
    s.top_k = top_k;
    s.inputs.first_layer = static_cast<std::int64_t>(s.layers.size());
    s.inputs.first_layout = static_cast<std::int64_t>(s.layouts.size());
    add_inputs(s, inputs, std::move(input_lengths), std::move(input_of));
    s.adapters = std::move(adapters);
    return s;
}

}  // namespace

void bind_steps(nb::module_& m) {
    nb::enum_<Codec>(m, "Codec")
        .value("fp32", Codec::fp32)
        .value("bf16", Codec::bf16)
        .value("fp16", Codec::fp16)
        .value("int8", Codec::int8)
        .value("int4", Codec::int4);
    nb::class_<AttentionShape>(m, "AttentionShape");
    m.def("attention_shape", &make_shape, "heads"_a, "kv_heads"_a, "head_dim"_a, "scale"_a,
          "causal"_a, "window"_a, "sinks"_a, "softcap"_a, "value_dim"_a = 0, "in_keys"_a = false);
    nb::class_<Layers>(m, "Layers");
    m.def("layers", &make_layers, "keys"_a, "values"_a, "buffers"_a, "layouts"_a, Keep<0, 3>());
    nb::class_<Step>(m, "Step");
    m.def("step", &make_step, "rows"_a, "tokens"_a.none(), "positions"_a.none(), "starts"_a,
          "tables"_a, "lengths"_a, "wanted"_a.none(), "num_wanted"_a, "cos"_a.none(),
          "sin"_a.none(), "rope_rows"_a.none(), "layouts"_a, "layers"_a, "logits"_a.none(),
          "vocabulary"_a, "top_k"_a, "inputs"_a, "input_lengths"_a, "input_of"_a,
          "adapters"_a = std::vector<std::int64_t>(), Keep<0, 2>(), Keep<0, 3>(), Keep<0, 7>(),
          Keep<0, 9>(), Keep<0, 10>(), Keep<0, 11>(), Keep<0, 13>(), Keep<0, 14>(), Keep<0, 17>());
}

}  // namespace kept
