// Compiles every kernel for the instruction set that KEPT_NS names, and lists them.
#pragma once

#include "attention.h"
#include "kernels.h"
#include "linear.h"
#include "place.h"
#include "quantize_rows.h"
#include "rows.h"
#include "weigh.h"

#ifndef KEPT_LINEAR
#define KEPT_LINEAR linear
#endif
#define KEPT_TEXT_OF(name) #name
#define KEPT_TEXT(name) KEPT_TEXT_OF(name)
#define KEPT_JOIN_OF(a, b) a##b
#define KEPT_JOIN(a, b) KEPT_JOIN_OF(a, b)

namespace kept {

extern const Kernels KEPT_JOIN(kernels_, KEPT_NS);
const Kernels KEPT_JOIN(kernels_, KEPT_NS) = {
    KEPT_TEXT(KEPT_NS),     KEPT_NS::KEPT_LINEAR,  KEPT_NS::norm,  KEPT_NS::embed,
    KEPT_NS::place,         KEPT_NS::attend,       KEPT_NS::merge, KEPT_NS::unpack_row,
    KEPT_NS::quantize_rows, KEPT_NS::encode_heads, KEPT_NS::weigh,
};

}  // namespace kept
