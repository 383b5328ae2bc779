#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "bindings_kernels.h"
#include "cpu_features.h"
#include "matrix_peak.h"
#include "read_bandwidth.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

nb::dict features_as_dict() {
    const kept::CpuFeatures& f = kept::cpu_features();
    nb::dict d;
    d["avx2"] = f.avx2;
    d["fma"] = f.fma;
    d["f16c"] = f.f16c;
    d["avx512f"] = f.avx512f;
    d["avx512bw"] = f.avx512bw;
    d["avx512dq"] = f.avx512dq;
    d["avx512vl"] = f.avx512vl;
    d["avx_vnni"] = f.avx_vnni;
    d["avx512_vnni"] = f.avx512_vnni;
    d["avx512_bf16"] = f.avx512_bf16;
    d["avx512_vbmi"] = f.avx512_vbmi;
    d["amx_tile"] = f.amx_tile;
    d["amx_bf16"] = f.amx_bf16;
    d["amx_int8"] = f.amx_int8;
    d["neon"] = f.neon;
    d["dotprod"] = f.dotprod;
    d["bf16"] = f.bf16;
    d["i8mm"] = f.i8mm;
    return d;
}

}  // namespace

// Arguments are verified by kept.machine, which is the public face.
NB_MODULE(_native, m) {
    // Models that live until the interpreter ends are no leak.
    nb::set_leak_warnings(false);
    m.doc() = "kept's native code; see kept.machine for the public face.";

    nb::class_<kept::Rate>(m, "Rate")
        .def_ro("path", &kept::Rate::path)
        .def_ro("best", &kept::Rate::best)
        .def_ro("median", &kept::Rate::median);

    nb::enum_<kept::MatrixDtype>(m, "MatrixDtype")
        .value("fp32", kept::MatrixDtype::fp32)
        .value("bf16", kept::MatrixDtype::bf16)
        .value("int8", kept::MatrixDtype::int8);

    m.def("cpu_features", &features_as_dict);
    m.def("num_cores", &kept::num_cores);
    m.def("read_bandwidth", &kept::read_bandwidth, "num_threads"_a, "size_bytes"_a, "num_runs"_a,
          nb::call_guard<nb::gil_scoped_release>());
    m.def("matrix_peak", &kept::matrix_peak, "dtype"_a, "num_threads"_a, "num_runs"_a, "isa"_a,
          nb::call_guard<nb::gil_scoped_release>());
    kept::bind_kernels(m);
}
