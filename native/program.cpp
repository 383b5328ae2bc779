#include "program.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "dispatch.h"
#include "pool.h"

namespace kept {
namespace {

// The likelier of two tokens: NaN before anything else, then the lower index among equals.
const Best& likelier(const Best& a, const Best& b) {
    if (a.value != a.value) return a;
    const bool wins =
        b.value != b.value || b.value > a.value || (b.value == a.value && b.index < a.index);
    return wins ? b : a;
}

void must(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace

Program::Program(const std::string& isa) : kernels_(find_kernels(isa.c_str())) {
    if (kernels_ == nullptr) throw std::invalid_argument("no kernels called " + isa);
}

int Program::add_buffer(std::int64_t width, bool is_bf16) {
    buffers_.emplace_back(width, is_bf16);
    return static_cast<int>(buffers_.size()) - 1;
}

int Program::add_weights(const Weights& weights) {
    weights_.push_back(weights);
    return static_cast<int>(weights_.size()) - 1;
}

void Program::embed(int table, const float* position_table, std::int64_t num_positions, int out,
                    float scale) {
    ops_.push_back(Embed{table, position_table, num_positions, out, scale});
}

void Program::norm(int x, const float* weight, const float* bias, float eps, int out, bool wanted,
                   bool add) {
    ops_.push_back(Norm{x, weight, bias, eps, out, wanted, add});
}

void Program::linear(int in, int weights, Epilogue epilogue, Activation activation, int out,
                     bool wanted, float softcap) {
    ops_.push_back(Linear{in, weights, epilogue, activation, out, wanted, softcap});
}

void Program::place(int qkv, int queries, std::int64_t layer, const AttentionShape& shape,
                    const float* q_norm, const float* k_norm, float eps, std::int64_t rope_dim,
                    std::int64_t rope_begin, std::int64_t rope_stride) {
    ops_.push_back(
        Place{qkv, queries, layer, shape, q_norm, k_norm, eps, rope_dim, rope_begin, rope_stride});
}

void Program::attend(int queries, std::int64_t layer, const AttentionShape& shape, int out) {
    ops_.push_back(Attend{queries, layer, shape, out});
}

void Program::check_room(const Step& step, std::int64_t layer, std::int64_t heads) {
    must(layer >= 0 && layer < static_cast<std::int64_t>(step.layers.size()),
         "the step has buffers for fewer layers than the program");
    const LayerStores& stores = step.layers[static_cast<std::size_t>(layer)];
    const auto at = static_cast<std::size_t>(stores.layout);
    const Room& room = stores.room;
    must(room.heads == heads, "a layer's buffers have not the heads of its attention");
    must(room.capacity == step.layouts[at].capacity && room.entries <= room.capacity,
         "a layer's buffers have not the capacity of its layout");
    must(!step.layouts[at].ring || room.entries == room.capacity,
         "a ring's buffers hold all of its entries");
    for (std::size_t s = 0; s < step.slots.size(); ++s) {
        must(step.slots[s] >= 0 && step.slots[s] < room.slots,
             "a sequence's slot is none of a layer's buffers");
        must(step.layouts[at].ring || step.lengths[at][s] <= room.entries,
             "a sequence is longer than a layer's buffers");
    }
}

void Program::check(const Step& step) const {
    const auto within = [](const char* what, const std::int64_t* ids, std::int64_t count,
                           std::int64_t limit) {
        for (std::int64_t i = 0; i < count; ++i)
            if (ids[i] < 0 || ids[i] >= limit)
                throw std::out_of_range(std::string(what) + " " + std::to_string(ids[i]) +
                                        " does not exist: there are " + std::to_string(limit) +
                                        ", from 0 on");
    };
    for (const Op& op : ops_)
        if (const Embed* e = std::get_if<Embed>(&op)) {
            const Weights& table = weights(e->table);
            within("token", step.tokens, step.rows, table.num_out);
            if (e->position_table) within("position", step.positions, step.rows, e->num_positions);
        }
    const std::size_t count = step.slots.size();
    must(step.rows > 0 && count > 0, "a step has at least one row of one sequence");
    must(step.starts.size() == count + 1 && step.starts.front() == 0 &&
             step.starts.back() == step.rows,
         "starts and slots of a step do not fit its rows");
    must(step.lengths.size() == step.layouts.size(), "a step has lengths for each of its layouts");
    for (std::size_t l = 0; l < step.layouts.size(); ++l) {
        const LayoutArgs& layout = step.layouts[l];
        const auto& lengths = step.lengths[l];
        must(lengths.size() == count, "a layout has a length for each sequence");
        for (std::size_t s = 0; s < count; ++s) {
            const std::int64_t new_tokens = step.starts[s + 1] - step.starts[s];
            must(new_tokens > 0 && new_tokens <= lengths[s],
                 "every sequence of a step has new tokens, and no more of them than it is long");
            must(layout.ring || lengths[s] <= layout.capacity,
                 "a sequence is longer than its layout has room for");
        }
    }
    for (const LayerStores& layer : step.layers) {
        must(layer.layout >= 0 && layer.layout < static_cast<std::int64_t>(step.layouts.size()),
             "a layer follows a layout that the step does not have");
        for (const Stored* stored : {&layer.keys, &layer.values})
            must(stored->num_sinks >= 0 && stored->num_sinks <= kMaxSinks,
                 "a layer holds apart more tokens than one tile has");
    }
    for (const Op& op : ops_) {
        // A layer that reads another's keys places queries alone.
        if (const Place* p = std::get_if<Place>(&op); p && p->shape.kv_heads > 0)
            check_room(step, p->layer, p->shape.kv_heads);
        if (const Attend* a = std::get_if<Attend>(&op))
            check_room(step, a->layer, a->shape.kv_heads);
    }
    must(step.top_k >= 0 && step.top_k <= step.vocabulary,
         "a step asks for no more of the largest logits than there are");
    if (step.wanted) within("wanted row", step.wanted, step.num_wanted, step.rows);
}

void Program::reserve(const Step& step) {
    // A row may be wanted more than once.
    const std::int64_t rows = std::max(step.rows, step.num_wanted);
    for (RowBuffer& buffer : buffers_) buffer.reserve(rows);
    std::int64_t needed = 0;
    for (const Weights& w : weights_) needed = std::max(needed, linear_scratch(w, rows));
    for (const Op& op : ops_)
        if (const Attend* a = std::get_if<Attend>(&op))
            needed = std::max(needed, attend_scratch(a->shape));
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
            partials = std::max(partials, plan(step, *a).floats);
    if (partials_.size() < static_cast<std::size_t>(partials))
        partials_.resize(static_cast<std::size_t>(partials));
}

const AttendPlan& Program::plan(const Step& step, const Attend& op) {
    const std::int64_t layout = step.layers[static_cast<std::size_t>(op.layer)].layout;
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
