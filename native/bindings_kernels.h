#pragma once

#include <nanobind/nanobind.h>

namespace kept {

void bind_adapters(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);
void bind_packing(nanobind::module_& m);
void bind_program(nanobind::module_& m);
void bind_repeats(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);
void bind_steps(nanobind::module_& m);

}  // namespace kept
