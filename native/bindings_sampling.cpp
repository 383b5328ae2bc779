// Weights and random numbers for Python.
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings_kernels.h"
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
    m.def("random_bits", &random_of, "seeds"_a, "positions"_a);
}

}  // namespace kept
