// What a text repeats, for Python.
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <stdexcept>

#include "bindings_kernels.h"
#include "repeats.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace kept {
namespace {

using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check(std::int64_t token, std::int64_t least) {
    if (token < least || token > std::numeric_limits<std::int32_t>::max())
        throw std::invalid_argument("a token is a number from 0 to 2**31 - 1");
}

void check(const Ids& tokens, std::int64_t least) {
    for (std::size_t i = 0; i < tokens.shape(0); ++i) check(tokens.data()[i], least);
}

std::pair<std::int32_t, std::int32_t> pair_of(const Match& match) {
    return {match.length, match.next};
}

}  // namespace

void bind_repeats(nb::module_& m) {
    nb::class_<SuffixAutomaton>(m, "SuffixAutomaton")
        .def(nb::init<>())
        .def(
            "add",
            [](SuffixAutomaton& a, const Ids& tokens) {
                check(tokens, -1);
                for (std::size_t i = 0; i < tokens.shape(0); ++i)
                    a.add(static_cast<std::int32_t>(tokens.data()[i]));
            },
            "tokens"_a)
        .def("match", [](const SuffixAutomaton& a) { return pair_of(a.match()); })
        .def("tokens", [](const SuffixAutomaton& a) { return a.text(); })
        .def_prop_ro("num_tokens", [](const SuffixAutomaton& a) { return a.text().size(); })
        .def_prop_ro("num_bytes", &SuffixAutomaton::num_bytes);
    nb::class_<Repeats>(m, "Repeats")
        .def(nb::init<std::shared_ptr<SuffixAutomaton>>(), "others"_a)
        .def(
            "read",
            [](Repeats& r, const Ids& tokens) {
                check(tokens, -1);
                r.read(tokens.data(), static_cast<std::int64_t>(tokens.shape(0)));
            },
            "tokens"_a)
        .def(
            "draw",
            [](Repeats& r, std::int64_t token) {
                check(token, 0);
                return r.draw(token);
            },
            "token"_a)
        .def("chance", &Repeats::chance)
        .def(
            "draft",
            [](Repeats& r, std::int64_t most, double least) {
                Draft found = r.draft(most, least);
                return std::pair(std::move(found.tokens), std::move(found.chances));
            },
            "most"_a, "least"_a)
        .def("match", [](const Repeats& r) { return pair_of(r.match()); })
        .def("match_of_others", [](Repeats& r) { return pair_of(r.match_of_others()); })
        .def_prop_ro("num_tokens", &Repeats::num_tokens)
        .def_prop_ro("num_bytes", &Repeats::num_bytes);
}

}  // namespace kept
