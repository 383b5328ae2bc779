#include "program.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "dispatch.h"
#include "pool.h"

namespace kept {

Program::Program(const std::string& isa) : kernels_(find_kernels(isa.c_str())) {
    if (kernels_ == nullptr) throw std::invalid_argument("no kernels called " + isa);
}

int Program::add_buffer(std::int64_t width, bool is_bf16, std::int64_t per_row) {
    buffers_.emplace_back(width, is_bf16, per_row);
    return static_cast<int>(buffers_.size()) - 1;
}

int Program::add_code_buffer(std::int64_t width, bool for_int4, std::int64_t per_row) {
    buffers_.push_back(RowBuffer::of_codes(width, for_int4, per_row));
    return static_cast<int>(buffers_.size()) - 1;
}

int Program::add_weights(const Weights& weights) {
    if (!weights.data) throw std::invalid_argument("weights without numbers");
    weights_.push_back(weights);
    return static_cast<int>(weights_.size()) - 1;
}

int Program::add_expert_weights(std::vector<Weights> weights) {
    if (weights.empty()) throw std::invalid_argument("no experts");
    for (const Weights& each : weights)
        if (!each.data) throw std::invalid_argument("weights without numbers");
    expert_weights_.push_back(std::move(weights));
    return static_cast<int>(expert_weights_.size()) - 1;
}

void Program::embed(int table, const float* position_table, std::int64_t num_positions, int out,
                    float scale, bool others_first) {
    append(Embed{table, position_table, num_positions, out, scale, others_first});
}

void Program::norm(int x, const float* weight, const float* bias, float eps, int out, bool wanted,
                   bool add, std::int64_t begin, std::int64_t width) {
    append(Norm{x, weight, bias, eps, out, wanted, add, begin, width});
}

void Program::round(int x, int out, float factor, int by, std::int64_t begin) {
    append(Round{x, out, factor, by, begin});
}

void Program::quantize(int x, int out, bool wanted) {
    append(Quantize{x, out, wanted});
}

void Program::linear(int in, int weights, Epilogue epilogue, Activation activation, int out,
                     bool wanted, float softcap, float scale, int adapters) {
    append(Linear{in, weights, epilogue, activation, out, wanted, softcap, scale, adapters});
}

void Program::place(int qkv, int queries, std::int64_t layer, const AttentionShape& shape,
                    const HeadNorms& norms, const RotaryColumns& rotary, bool crossing) {
    append(Place{qkv, queries, layer, shape, norms, rotary, crossing});
}

void Program::attend(int queries, std::int64_t layer, const AttentionShape& shape, int out,
                     const DistanceBias& bias, bool crossing, const float* idle) {
    append(Attend{queries, layer, shape, out, bias, crossing, idle});
}

void Program::place_latent(const PlaceLatent& op) {
    append(op);
}

void Program::head_products(const HeadProducts& op) {
    append(op);
}

void Program::choose(int scores, const Routing& routing) {
    append(Choose{scores, routing});
}

void Program::gather(int x, int out) {
    append(Gather{x, out});
}

void Program::experts(int in, int ungathered, int weights, Epilogue epilogue, Activation activation,
                      int out) {
    append(Experts{in, ungathered, weights, epilogue, activation, out});
}

void Program::combine(int x, int shared, int out, bool add) {
    append(Combine{x, shared, out, add});
}

void Program::reserve(const Step& step) {
    // A row may be wanted more than once.
    const std::int64_t rows = std::max(step.rows, step.num_wanted);
    for (RowBuffer& buffer : buffers_) buffer.reserve(rows);
    std::int64_t needed = 0;
    for (const Weights& w : weights_) needed = std::max(needed, linear_scratch(w, rows));
    for (const auto& experts : expert_weights_)  // all of a layer's are of one size
        needed = std::max(needed, linear_scratch(experts.front(), rows));
    for (const Op& op : ops_) {
        if (const Attend* a = std::get_if<Attend>(&op))
            needed = std::max(needed, attend_scratch(a->shape));
        if (const Choose* c = std::get_if<Choose>(&op)) {
            routes_.reserve(c->routing, step.rows);
            needed = std::max(needed, Routes::choice_scratch(c->routing));
        }
    }
    reserve_adapters(step);
    const auto threads = static_cast<std::size_t>(Pool::shared().num_threads());
    scratch_.resize(threads);
    for (auto& scratch : scratch_)
        if (scratch.size() < static_cast<std::size_t>(needed))
            scratch.resize(static_cast<std::size_t>(needed));
    thread_best_.resize(threads);
    const Best none{-std::numeric_limits<float>::infinity(), 0};
    best_.assign(static_cast<std::size_t>(step.num_wanted), none);
    for (auto& best : thread_best_) best.assign(best_.size(), none);
    top_.begin(Pool::shared().num_threads(), step.num_wanted, step.top_k);

    row_sequence_.resize(static_cast<std::size_t>(step.rows));
    for (std::size_t s = 0; s + 1 < step.starts.size(); ++s)
        std::fill(row_sequence_.begin() + step.starts[s],
                  row_sequence_.begin() + step.starts[s + 1], static_cast<std::int32_t>(s));
    std::int64_t partials = 0;
    plans_.clear();
    for (const Op& op : ops_)
        if (const Attend* a = std::get_if<Attend>(&op))
            partials = std::max(partials, partial_floats(step, *a));
    if (partials_.size() < static_cast<std::size_t>(partials))
        partials_.resize(static_cast<std::size_t>(partials));
}

std::int64_t Program::partial_floats(const Step& step, const Attend& op) {
    std::int64_t floats = 0;
    for (std::int64_t i = 0; i < num_layers(step, op); ++i) floats += plan(step, op, i).floats;
    return floats;
}

const AttendPlan& Program::plan(const Step& step, const Attend& op, std::int64_t input) {
    const std::int64_t layer = layer_of(step, op.layer, op.crossing, input);
    const std::int64_t layout = step.layers[static_cast<std::size_t>(layer)].layout;
    for (const AttendPlan& found : plans_)
        if (found.fits(op.shape, layout)) return found;
    plans_.push_back(make_attend_plan(step, op.shape, layout, Pool::shared().num_threads()));
    return plans_.back();
}

void Program::merge_best() {
    for (const auto& found : thread_best_)
        for (std::size_t row = 0; row < best_.size(); ++row)
            best_[row] = likelier(best_[row], found[row]);
}

}  // namespace kept
