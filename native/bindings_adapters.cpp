// Low-rank adapters for Python; handed.h says what tensors must be.
#include <stdexcept>

#include "bindings_kernels.h"
#include "handed.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kept {
namespace {

// No tensors: an adapter that leaves its layer alone.
LowRank make_low_rank(std::int64_t rank, std::int64_t padded_in, nb::handle down, nb::handle up,
                      nb::handle scales, nb::handle strips) {
    LowRank made;
    if (rank == 0) return made;
    if (rank < 0 || padded_in < 1 || padded_in % kGroup)
        throw std::invalid_argument("an adapter has ranks, and inputs padded to 32");
    need(down, "an adapter's down");
    need(up, "an adapter's up");
    const Number type = hand(down, "an adapter's down").type;
    if (type != Number::bf16 && type != Number::fp32)
        throw std::invalid_argument("adapters are stored as bf16 or floats");
    made.rank = rank;
    made.padded_in = padded_in;
    made.is_bf16 = type == Number::bf16;
    made.down = numbers(down, type, rank * padded_in, "an adapter's down");
    made.up = numbers(up, type, 0, "an adapter's up");
    made.scales = some<const float>(scales, rank, "an adapter's scales");
    made.strips = some<const std::int64_t>(strips, 0, "an adapter's strips");
    made.num_strips = hand(strips, "an adapter's strips").count / 3;
    const std::int64_t count = hand(up, "an adapter's up").count;
    for (std::int64_t i = 0; i < made.num_strips; ++i) {
        const Strip s = made.strip(i);
        if (s.first < 0 || s.first > s.last || s.last > rank || s.at < 0 ||
            s.at + (s.last - s.first) * kStrip > count)
            throw std::invalid_argument("a strip lies outside of its adapter");
    }
    return made;
}

int add_adapters(Program& program, const nb::list& adapters) {
    std::vector<LowRank> found;
    for (const nb::handle each : adapters) found.push_back(nb::cast<const LowRank&>(each));
    return program.add_adapters(std::move(found));
}

}  // namespace

void bind_adapters(nb::module_& m) {
    nb::class_<LowRank>(m, "LowRank");
    m.def("low_rank", &make_low_rank, "rank"_a = 0, "padded_in"_a = 0, "down"_a.none() = nb::none(),
          "up"_a.none() = nb::none(), "scales"_a.none() = nb::none(),
          "strips"_a.none() = nb::none(), nb::keep_alive<0, 3>(), nb::keep_alive<0, 4>(),
          nb::keep_alive<0, 5>(), nb::keep_alive<0, 6>());
    m.def("add_adapters", &add_adapters, "program"_a, "adapters"_a, nb::keep_alive<1, 2>());
}

}  // namespace kept
