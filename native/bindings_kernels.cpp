// Kernels for Python: which there are, their threads and their memory.
#include "bindings_kernels.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>

#include "dispatch.h"
#include "memory.h"
#include "pool.h"
#include "torch_team.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kept {
namespace {

using Release = nb::call_guard<nb::gil_scoped_release>;

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
    bind_steps(m);
    bind_program(m);
    bind_adapters(m);
    bind_repeats(m);
    bind_sampling(m);
}

}  // namespace kept
