// Weights and random numbers for Python.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <tuple>

#include "bindings_kernels.h"
#include "choose.h"
#include "likeliest.h"
#include "sampling.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kept {
namespace {

using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void weigh_arrays(const std::vector<Row>& rows, const std::vector<float>& peaks,
                  const std::vector<float>& temperatures, const Sums& sums) {
    if (peaks.size() != rows.size() || temperatures.size() != rows.size() ||
        sums.shape(0) != rows.size())
        throw std::invalid_argument("each row has its peak, its temperature and its sums");
    std::vector<WeighArgs> args;
    const auto chunks = static_cast<std::int64_t>(sums.shape(1));
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto size = static_cast<std::int64_t>(rows[i].shape(0));
        if ((size + kWeightChunk - 1) / kWeightChunk != chunks)
            throw std::invalid_argument("each chunk of 256 tokens has its sum");
        args.push_back({rows[i].data(), size, peaks[i], temperatures[i],
                        sums.data() + static_cast<std::int64_t>(i) * chunks});
    }
    nb::gil_scoped_release release;
    weigh_rows(args);
}

using FewLogits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FewTokens = nb::ndarray<const std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
// edge, temperature, draws, top_k, top_p, log_min_p, total, uniform
using FewOptions =
    std::tuple<float, float, bool, std::int64_t, double, double, std::int64_t, double>;

std::vector<std::int64_t> choose_rows(const FewLogits& logits, const FewTokens& tokens,
                                      const std::vector<FewOptions>& options) {
    const std::size_t rows = logits.shape(0), count = logits.shape(1);
    if (tokens.shape(0) != rows || tokens.shape(1) != count || options.size() != rows)
        throw std::invalid_argument("each row has its few logits, their tokens and its options");
    std::vector<std::int64_t> found;
    for (std::size_t i = 0; i < rows; ++i) {
        const auto& [edge, temperature, draws, top_k, top_p, log_min_p, total, uniform] =
            options[i];
        found.push_back(choose_from_few({logits.data() + i * count, tokens.data() + i * count,
                                         static_cast<std::int64_t>(count), edge, temperature, draws,
                                         top_k, top_p, log_min_p, total, uniform}));
    }
    return found;
}

using Values = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<std::int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void largest_of_rows(const std::vector<Row>& rows, const Values& values, const Tokens& tokens) {
    const std::size_t k = values.shape(1);
    if (values.shape(0) != rows.size() || tokens.shape(0) != rows.size() || tokens.shape(1) != k)
        throw std::invalid_argument("each row has room for its largest and their tokens");
    for (const Row& row : rows)
        if (k == 0 || row.shape(0) < k)
            throw std::invalid_argument("of a row from one to all of its numbers are found");
    nb::gil_scoped_release release;
    for (std::size_t i = 0; i < rows.size(); ++i)
        largest_of_row(rows[i].data(), static_cast<std::int64_t>(rows[i].shape(0)),
                       static_cast<std::int64_t>(k), values.data() + i * k, tokens.data() + i * k);
}

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void largest_allowed_of_rows(const Matrix& logits, const std::vector<std::size_t>& rows,
                             const std::vector<Mask>& masks, const Values& values,
                             const Tokens& tokens) {
    const std::size_t k = values.shape(1), size = logits.shape(1);
    if (masks.size() != rows.size() || values.shape(0) != rows.size() ||
        tokens.shape(0) != rows.size() || tokens.shape(1) != k || k == 0 || k > size)
        throw std::invalid_argument("each row has its mask and room for its largest and tokens");
    for (const std::size_t row : rows)
        if (row >= logits.shape(0)) throw std::invalid_argument("a row is one of the logits");
    nb::gil_scoped_release release;
    for (std::size_t i = 0; i < rows.size(); ++i)
        largest_allowed_of_row(logits.data() + rows[i] * size, static_cast<std::int64_t>(size),
                               masks[i].data(), static_cast<std::int64_t>(masks[i].shape(0)),
                               static_cast<std::int64_t>(k), values.data() + i * k,
                               tokens.data() + i * k);
}

using Seen = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
// row, penalty, the tokens that it is for, and those that are allowed
using LikeliestOptions = std::tuple<std::size_t, float, std::optional<Seen>, std::optional<Mask>>;

std::vector<std::int64_t> likeliest_of_rows(const Matrix& logits,
                                            const std::vector<LikeliestOptions>& options) {
    const std::size_t size = logits.shape(1);
    std::vector<LikeliestArgs> args;
    for (const auto& [row, penalty, seen, mask] : options) {
        if (row >= logits.shape(0)) throw std::invalid_argument("a row is one of the logits");
        if (seen && seen->shape(0) != size)
            throw std::invalid_argument("each token of a row has been seen or not");
        args.push_back({logits.data() + row * size, static_cast<std::int64_t>(size),
                        seen ? seen->data() : nullptr, penalty, mask ? mask->data() : nullptr,
                        mask ? static_cast<std::int64_t>(mask->shape(0)) : 0});
    }
    nb::gil_scoped_release release;
    std::vector<std::int64_t> found;
    for (const LikeliestArgs& each : args) found.push_back(likeliest_of_row(each));
    return found;
}

std::vector<std::uint64_t> random_of(const std::vector<std::uint64_t>& seeds,
                                     const std::vector<std::uint64_t>& positions) {
    if (seeds.size() != positions.size()) throw std::invalid_argument("each seed has its position");
    std::vector<std::uint64_t> found;
    for (std::size_t i = 0; i < seeds.size(); ++i)
        found.push_back(random_bits(seeds[i], positions[i]));
    return found;
}

}  // namespace

void bind_sampling(nb::module_& m) {
    m.def("weigh", &weigh_arrays, "rows"_a, "peaks"_a, "temperatures"_a, "sums"_a);
    m.def("choose_from_few", &choose_rows, "logits"_a, "tokens"_a, "options"_a);
    m.def("largest", &largest_of_rows, "rows"_a, "values"_a, "tokens"_a);
    m.def("largest_allowed", &largest_allowed_of_rows, "logits"_a, "rows"_a, "masks"_a, "values"_a,
          "tokens"_a);
    m.def("likeliest", &likeliest_of_rows, "logits"_a, "options"_a);
    m.def("random_bits", &random_of, "seeds"_a, "positions"_a);
}

}  // namespace kept
