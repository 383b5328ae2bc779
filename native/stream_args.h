// What kernels over columns of rows, and over rows of several streams, are given. All rows are
// floats but those that say ActRows.
#pragma once

#include "kernels.h"

namespace kept {

// Streams that a row has side by side, at most.
constexpr std::int64_t kMaxStreams = 8;

// Columns from where x and out.data point to, times weights unless these are null.
struct ColumnsArgs {
    const float* x;
    std::int64_t x_stride, width;
    std::int64_t padded;  // as many columns of out are filled, with zeros behind the width
    const float* weight;
    ActRows out;
    bool add;  // to what is there, in rows of floats
};

// x, scaled so that its root mean square, taken for at least that of `least`, is that of `like`.
struct MatchArgs {
    const float* x;
    std::int64_t x_stride, width;
    const float* like;
    std::int64_t like_stride;
    float least;
    float* out;
    std::int64_t out_stride;
    bool add;
};

// x: streams of `width` each, changed in place. routes: S numbers a row, whose tanh meets the
// weights, (S * S, S) or (S, S). active: what became of the stream of that index.
struct StreamsArgs {
    float* x;
    std::int64_t x_stride, width, num_streams;
    const float* routes;
    std::int64_t routes_stride;
    const float* weight;
    const float* active;
    std::int64_t active_stride, index;
};

// activation(gates - (mean + deviations * standard deviation), not below 0) * ups.
struct SparseArgs {
    const float *gates, *ups;
    std::int64_t gates_stride, ups_stride, width;
    float deviations;
    Activation activation;
    ActRows out;
};

}  // namespace kept
