// Programs for Python. Tensors are checked as handed.h says, and kept alive by what is made of
// them.
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "bindings_kernels.h"
#include "handed.h"
#include "program.h"
#include "repeat.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kept {
namespace {

using Release = nb::call_guard<nb::gil_scoped_release>;
// The first argument (0: the result) holds the second for as long as it lives.
template <std::size_t Holder, std::size_t Held>
using Keep = nb::keep_alive<Holder, Held>;

const RowBuffer& held(const Program& p, int buffer, std::int64_t rows) {
    const RowBuffer& found = p.known(buffer);
    if (rows < 0 || rows > found.rows())
        throw std::invalid_argument("the last run had fewer rows than are read");
    return found;
}

void check_queries(const RowBuffer& buffer, const AttentionShape& shape) {
    if (shape.heads * round_up(shape.head_dim, 32) > buffer.stride())
        throw std::invalid_argument("heads outgrow the rows of their queries");
}

using BestPairs = std::vector<std::pair<float, std::int32_t>>;

BestPairs best_as_pairs(const Program& program) {
    BestPairs found;
    for (const Best& best : program.best()) found.emplace_back(best.value, best.index);
    return found;
}

template <typename Number>
using Numpy = nb::ndarray<nb::numpy, Number, nb::ndim<2>>;

template <typename Number>
Numpy<Number> copied(const std::vector<Number>& numbers, std::int64_t rows, std::int64_t columns) {
    auto* made = new std::vector<Number>(numbers);
    const nb::capsule owner(made,
                            [](void* p) noexcept { delete static_cast<std::vector<Number>*>(p); });
    const auto height = static_cast<std::size_t>(rows), width = static_cast<std::size_t>(columns);
    return Numpy<Number>(made->data(), {height, width}, owner);
}

std::pair<Numpy<float>, Numpy<std::int64_t>> top_as_arrays(const Program& program) {
    const auto [rows, k] = program.top().shape();
    return {copied(program.top().values(), rows, k), copied(program.top().tokens(), rows, k)};
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

int add_expert_weights(Program& program, const nb::list& weights) {
    std::vector<Weights> found;
    for (const nb::handle each : weights) found.push_back(nb::cast<const Weights&>(each));
    return program.add_expert_weights(std::move(found));
}

}  // namespace

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
        .value("relu", Activation::relu)
        .value("clamped_swiglu", Activation::clamped_swiglu);
    nb::class_<Program>(m, "Program")
        .def(nb::init<const std::string&>(), "isa"_a)
        .def("add_buffer", &Program::add_buffer, "width"_a, "is_bf16"_a, "per_row"_a = 1)
        .def("add_code_buffer", &Program::add_code_buffer, "width"_a, "for_int4"_a, "per_row"_a = 1)
        .def("add_weights", &Program::add_weights, "weights"_a, Keep<1, 2>())
        .def("add_expert_weights", &add_expert_weights, "weights"_a, Keep<1, 2>())
        .def(
            "embed",
            [](Program& p, int table, nb::handle positions, std::int64_t num_positions, int out,
               float scale, bool others_first) {
                const std::int64_t count = num_positions * p.known(out).width();
                p.embed(table, numbers<const float>(positions, count, "positions' vectors"),
                        num_positions, out, scale, others_first);
            },
            "table"_a, "positions"_a.none(), "num_positions"_a, "out"_a, "scale"_a,
            "others_first"_a = false, Keep<1, 3>())
        .def(
            "norm",
            [](Program& p, int x, nb::handle weight, nb::handle bias, float eps, int out,
               bool wanted, bool add, std::int64_t begin, std::int64_t columns) {
                const std::int64_t width = columns > 0 ? columns : p.known(x).width();
                p.norm(x, some<const float>(weight, width, "weights of a norm"),
                       numbers<const float>(bias, width, "biases of a norm"), eps, out, wanted, add,
                       begin, width);
            },
            "x"_a, "weight"_a, "bias"_a.none(), "eps"_a, "out"_a, "wanted"_a, "add"_a,
            "begin"_a = 0, "columns"_a = 0, Keep<1, 3>(), Keep<1, 4>())
        .def("round", &Program::round, "x"_a, "out"_a, "factor"_a = 1.0f, "by"_a = -1,
             "begin"_a = 0)
        .def("quantize", &Program::quantize, "x"_a, "out"_a, "wanted"_a)
        .def("linear", &Program::linear, "x"_a, "weights"_a, "epilogue"_a, "activation"_a, "out"_a,
             "wanted"_a, "softcap"_a, "scale"_a, "adapters"_a = -1)
        .def("shrink", &Program::shrink, "x"_a, "adapters"_a)
        .def(
            "place",
            [](Program& p, int qkv, int queries, std::int64_t layer, const AttentionShape& shape,
               nb::handle q_norm, nb::handle k_norm, nb::handle v_norm, float eps, bool by_head,
               bool centred, std::int64_t rope_dim, std::int64_t rope_begin,
               std::int64_t rope_stride, bool neighbours, bool crossing) {
                const auto norm = [&](nb::handle x, std::int64_t heads) {
                    return numbers<const float>(x, shape.head_dim * (by_head ? heads : 1),
                                                "weights of a head's norm");
                };
                const HeadNorms norms{norm(q_norm, shape.heads),
                                      norm(k_norm, shape.kv_heads),
                                      norm(v_norm, 1),
                                      eps,
                                      by_head,
                                      centred};
                p.place(qkv, queries, layer, shape, norms,
                        {rope_dim, rope_begin, rope_stride, neighbours}, crossing);
            },
            "qkv"_a, "queries"_a, "layer"_a, "shape"_a, "q_norm"_a.none(), "k_norm"_a.none(),
            "v_norm"_a.none(), "eps"_a, "by_head"_a, "centred"_a, "rope_dim"_a, "rope_begin"_a,
            "rope_stride"_a, "neighbours"_a, "crossing"_a, Keep<1, 6>(), Keep<1, 7>(), Keep<1, 8>())
        .def(
            "attend",
            [](Program& p, int queries, std::int64_t layer, const AttentionShape& shape, int out,
               nb::handle bias, std::int64_t reach, nb::handle slopes, bool crossing,
               nb::handle idle) {
                DistanceBias found{nullptr, nullptr, reach};
                if (reach < 0 || reach > kMaxReach || shape.heads < 0)
                    throw std::invalid_argument("a bias reaches too far for the kernels");
                found.table = numbers<const float>(bias, shape.heads * found.width(), "biases");
                found.slopes = numbers<const float>(slopes, shape.heads, "slopes");
                p.attend(queries, layer, shape, out, found, crossing,
                         numbers<const float>(idle, shape.heads, "scores of nothing"));
            },
            "queries"_a, "layer"_a, "shape"_a, "out"_a, "bias"_a.none() = nb::none(), "reach"_a = 0,
            "slopes"_a.none() = nb::none(), "crossing"_a = false, "idle"_a.none() = nb::none(),
            Keep<1, 6>(), Keep<1, 8>(), Keep<1, 10>())
        .def(
            "head_products",
            [](Program& p, int x, std::int64_t begin, std::int64_t apart, int weights, int out) {
                p.head_products({x, begin, apart, weights, out});
            },
            "x"_a, "begin"_a, "apart"_a, "weights"_a, "out"_a)
        .def(
            "place_latent",
            [](Program& p, int absorbed, int turning, std::int64_t begin, std::int64_t apart,
               int compressed, int queries, std::int64_t layer, const AttentionShape& shape,
               nb::handle norm, float eps, std::int64_t rope_dim, std::int64_t rope_begin,
               std::int64_t rope_stride, bool neighbours) {
                p.place_latent({absorbed,
                                turning,
                                begin,
                                apart,
                                compressed,
                                queries,
                                layer,
                                shape,
                                some<const float>(norm, shape.value_dim, "weights of a norm"),
                                eps,
                                {rope_dim, rope_begin, rope_stride, neighbours}});
            },
            "absorbed"_a, "turning"_a, "begin"_a, "apart"_a, "compressed"_a, "queries"_a, "layer"_a,
            "shape"_a, "norm"_a, "eps"_a, "rope_dim"_a, "rope_begin"_a, "rope_stride"_a,
            "neighbours"_a, Keep<1, 10>())
        .def(
            "choose",
            [](Program& p, int scores, std::int64_t num_experts, std::int64_t top_k,
               bool normalised, bool is_shared, bool sigmoid, float scale, nb::handle bias,
               std::int64_t num_groups, std::int64_t top_groups, std::int64_t group_best) {
                const auto* biases = numbers<const float>(bias, num_experts, "biases of a choice");
                p.choose(scores, {num_experts, top_k, normalised, is_shared, sigmoid, scale, biases,
                                  num_groups, top_groups, group_best});
            },
            "scores"_a, "num_experts"_a, "top_k"_a, "normalised"_a, "is_shared"_a,
            "sigmoid"_a = false, "scale"_a = 1.0f, "bias"_a.none() = nb::none(), "num_groups"_a = 1,
            "top_groups"_a = 1, "group_best"_a = 1, Keep<1, 9>())
        .def("gather", &Program::gather, "x"_a, "out"_a)
        .def("experts", &Program::experts, "x"_a, "ungathered"_a, "weights"_a, "epilogue"_a,
             "activation"_a, "out"_a)
        .def("combine", &Program::combine, "x"_a, "shared"_a, "out"_a, "add"_a)
        .def(
            "columns",
            [](Program& p, int x, std::int64_t from, std::int64_t width, int out, std::int64_t to,
               nb::handle weight, bool add) {
                p.columns(x, from, width, out, to,
                          numbers<const float>(weight, width, "weights of columns"), add);
            },
            "x"_a, "begin"_a, "width"_a, "out"_a, "to"_a, "weight"_a.none(), "add"_a, Keep<1, 7>())
        .def("match", &Program::match, "x"_a, "like"_a, "least"_a, "out"_a, "to"_a, "add"_a)
        .def(
            "predict",
            [](Program& p, int x, std::int64_t count, int routes, nb::handle weight) {
                p.predict(x, count, routes,
                          some<const float>(weight, count * count * count, "weights of streams"));
            },
            "x"_a, "num_streams"_a, "routes"_a, "weight"_a, Keep<1, 5>())
        .def(
            "correct",
            [](Program& p, int x, std::int64_t count, int routes, nb::handle weight, int active,
               std::int64_t index) {
                p.correct(x, count, routes,
                          some<const float>(weight, count * count, "weights of streams"), active,
                          index);
            },
            "x"_a, "num_streams"_a, "routes"_a, "weight"_a, "active"_a, "index"_a, Keep<1, 5>())
        .def("gate_sparsely", &Program::gate_sparsely, "gates"_a, "ups"_a, "deviations"_a,
             "activation"_a, "out"_a)
        .def_prop_ro("num_ops", &Program::num_ops)
        .def("run", &Program::run, "step"_a, "first"_a, "last"_a, "among_torch"_a = false,
             Release())
        .def_prop_ro("best", &best_as_pairs)
        .def_prop_ro("top", &top_as_arrays, nb::rv_policy::move)
        .def("read_buffer",
             [](const Program& p, int buffer, std::int64_t rows, nb::handle out) {
                 const RowBuffer& from = held(p, buffer, rows);
                 from.read(rows, some<float>(out, rows * from.width(), "rows"));
             })
        .def("read_queries",
             [](const Program& p, int buffer, std::int64_t rows, const AttentionShape& shape,
                bool floats, nb::handle out) {
                 const RowBuffer& from = held(p, buffer, rows);
                 check_queries(from, shape);
                 const std::int64_t count = rows * shape.heads * shape.head_dim;
                 from.read_queries(rows, shape, floats, some<float>(out, count, "queries"));
             })
        .def("write_queries", [](Program& p, int buffer, std::int64_t rows,
                                 const AttentionShape& shape, bool floats, nb::handle in) {
            check_queries(p.known(buffer), shape);
            const Number type = floats ? Number::fp32 : Number::bf16;
            const std::int64_t count = rows * shape.heads * shape.head_dim;
            if (rows < 0) throw std::invalid_argument("rows are counted from zero");
            need(in, "queries");
            const std::byte* from = numbers(in, type, count, "queries");
            p.known(buffer).write_queries(rows, shape, floats, from);
        });
    nb::class_<Repeat>(m, "Repeat")
        .def(nb::init<Program&, const Step&, const std::vector<std::int64_t>&>(), "program"_a,
             "last"_a, "positions"_a, Keep<1, 2>(), Keep<1, 3>())
        .def("run", &run_repeat, "tokens"_a);
}

}  // namespace kept
