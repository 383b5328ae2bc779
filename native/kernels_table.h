// Compiles every kernel for the instruction set that KEPT_NS names, and lists them.
#pragma once

#include "adapt.h"
#include "attention.h"
#include "combine.h"
#include "kernels.h"
#include "linear.h"
#include "place.h"
#include "place_latent.h"
#include "quantize_rows.h"
#include "rows.h"
#include "streams.h"
#include "weigh.h"

// Whose kernels for codes these are: compiled by codes_*.cpp.
#ifndef KEPT_CODES_NS
#define KEPT_CODES_NS KEPT_NS
#endif
#define KEPT_TEXT_OF(name) #name
#define KEPT_TEXT(name) KEPT_TEXT_OF(name)
#define KEPT_JOIN_OF(a, b) a##b
#define KEPT_JOIN(a, b) KEPT_JOIN_OF(a, b)

namespace kept {

namespace KEPT_CODES_NS {
void linear_codes(const LinearArgs& args, std::int64_t first_panel, std::int64_t last_panel,
                  float* scratch);
void encode_rows(const EncodeRowsArgs& args, std::int64_t first_row, std::int64_t last_row);
}  // namespace KEPT_CODES_NS

extern const Kernels KEPT_JOIN(kernels_, KEPT_NS);
const Kernels KEPT_JOIN(kernels_, KEPT_NS) = {
    KEPT_TEXT(KEPT_NS),
    KEPT_NS::linear,
    KEPT_NS::norm,
    KEPT_NS::round,
    KEPT_NS::embed,
    KEPT_NS::place,
    KEPT_NS::place_latent,
    KEPT_NS::attend,
    KEPT_NS::merge,
    KEPT_NS::combine,
    KEPT_NS::unpack_row,
    KEPT_NS::quantize_rows,
    KEPT_NS::encode_heads,
    KEPT_NS::weigh,
    KEPT_CODES_NS::linear_codes,
    KEPT_CODES_NS::encode_rows,
    KEPT_NS::shrink,
    KEPT_NS::expand,
    KEPT_NS::put_columns,
    KEPT_NS::match,
    KEPT_NS::predict_streams,
    KEPT_NS::correct_streams,
    KEPT_NS::gate_sparsely,
};

}  // namespace kept
