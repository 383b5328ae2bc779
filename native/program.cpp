#include "program.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>

#include "dispatch.h"
#include "memory.h"

namespace kept {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

bool same(const AttentionShape& a, const AttentionShape& b) {
    return a.heads == b.heads && a.kv_heads == b.kv_heads && a.head_dim == b.head_dim &&
           a.causal == b.causal && a.window == b.window && a.sinks == b.sinks;
}

bool is_float_codec(Codec codec) {
    return codec == Codec::fp32 || codec == Codec::fp16;
}

// What thread `thread` of `threads` takes of `count` units.
std::pair<std::int64_t, std::int64_t> share(std::int64_t count, int thread, int threads) {
    return {count * thread / threads, count * (thread + 1) / threads};
}

}  // namespace

// What the threads of one run have in common.
struct Program::Run {
    const Step& step;
    std::int64_t first, last;
    int threads;
    Sequences sequences;
    std::array<std::atomic<std::int64_t>, 2> next{};  // unit to take, of odd and of even operations
    Program* program;
};

Program::Program(const std::string& isa) : kernels_(find_kernels(isa.c_str())) {
    if (kernels_ == nullptr) throw std::invalid_argument("no kernels called " + isa);
}

int Program::add_buffer(std::int64_t width, bool is_bf16) {
    Buffer buffer;
    buffer.width = width;
    buffer.stride = round_up(width, 32);
    buffer.is_bf16 = is_bf16;
    buffers_.push_back(std::move(buffer));
    return static_cast<int>(buffers_.size()) - 1;
}

int Program::add_weights(const Weights& weights) {
    weights_.push_back(weights);
    return static_cast<int>(weights_.size()) - 1;
}

void Program::embed(int table, const float* position_table, std::int64_t num_positions, int out) {
    ops_.push_back(Embed{table, position_table, num_positions, out});
}

void Program::norm(int x, const float* weight, const float* bias, float eps, int out, bool wanted) {
    ops_.push_back(Norm{x, weight, bias, eps, out, wanted});
}

void Program::linear(int in, int weights, Epilogue epilogue, Activation activation, int out,
                     bool wanted) {
    ops_.push_back(Linear{in, weights, epilogue, activation, out, wanted});
}

void Program::place(int qkv, int queries, std::int64_t layer, const AttentionShape& shape,
                    const float* q_norm, const float* k_norm, float eps, std::int64_t rope_dim) {
    ops_.push_back(Place{qkv, queries, layer, shape, q_norm, k_norm, eps, rope_dim});
}

void Program::attend(int queries, std::int64_t layer, const AttentionShape& shape, int out) {
    ops_.push_back(Attend{queries, layer, shape, out});
}

ActRows Program::act(int buffer) const {
    const Buffer& b = buffers_[static_cast<std::size_t>(buffer)];
    return {b.memory.get(), b.stride, b.is_bf16};
}

float* Program::floats(int buffer) const {
    return reinterpret_cast<float*>(buffers_[static_cast<std::size_t>(buffer)].memory.get());
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
            const Weights& table = weights_[static_cast<std::size_t>(e->table)];
            within("token", step.tokens, step.rows, table.num_out);
            if (e->position_table) within("position", step.positions, step.rows, e->num_positions);
        }
    const auto must = [](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(what);
    };
    const std::size_t count = step.slots.size();
    must(step.rows > 0 && count > 0, "a step has at least one row of one sequence");
    must(step.starts.size() == count + 1 && step.lengths.size() == count &&
             step.starts.front() == 0 && step.starts.back() == step.rows,
         "starts, slots and lengths of a step do not fit its rows");
    for (std::size_t s = 0; s < count; ++s) {
        const std::int64_t new_tokens = step.starts[s + 1] - step.starts[s];
        must(new_tokens > 0 && new_tokens <= step.lengths[s],
             "every sequence of a step has new tokens, and no more of them than it is long");
        for (const LayoutArgs& layout : step.layouts)
            must(layout.ring || step.lengths[s] <= layout.capacity,
                 "a sequence is longer than its layout has room for");
    }
    for (const LayerStores& layer : step.layers)
        must(layer.layout >= 0 && layer.layout < static_cast<std::int64_t>(step.layouts.size()),
             "a layer follows a layout that the step does not have");
    for (const Op& op : ops_) {
        const Place* place = std::get_if<Place>(&op);
        must(!place || (place->layer >= 0 &&
                        place->layer < static_cast<std::int64_t>(step.layers.size())),
             "the step has buffers for fewer layers than the program");
    }
    if (step.wanted) within("wanted row", step.wanted, step.num_wanted, step.rows);
}

void Program::grow(Buffer& b, std::int64_t rows) {
    if (b.rows >= rows) return;
    // Zeros: kernels read the padding of rows, into which only zeros are ever written.
    const auto bytes = static_cast<std::size_t>(rows * b.stride * 4);
    b.memory = {nullptr, nullptr};
    b.rows = 0;
    b.memory = {allocate_zeros(bytes), free_memory};
    b.rows = rows;
}

void Program::reserve(const Step& step) {
    // A row may be wanted more than once.
    const std::int64_t rows = std::max(step.rows, step.num_wanted);
    for (Buffer& b : buffers_) grow(b, rows);
    std::int64_t needed = 0;
    for (const Weights& weights : weights_)
        needed = std::max(needed, linear_scratch(weights, rows));
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

const Program::AttendPlan& Program::plan(const Step& step, const Attend& op) {
    const std::int64_t layout = step.layers[static_cast<std::size_t>(op.layer)].layout;
    for (const AttendPlan& found : plans_)
        if (found.layout == layout && same(found.shape, op.shape)) return found;
    plans_.push_back(make_plan(step, op.shape, layout));
    return plans_.back();
}

Program::AttendPlan Program::make_plan(const Step& step, const AttentionShape& shape,
                                       std::int64_t layout) const {
    AttendPlan made{shape, layout, {}, {}, 0};
    const LayoutArgs& args = step.layouts[static_cast<std::size_t>(layout)];
    const std::int64_t share = shape.heads / shape.kv_heads, block = query_rows(share);
    const std::int64_t threads = Pool::shared().num_threads();
    const auto count = static_cast<std::int64_t>(step.slots.size());
    const std::int64_t base_units = count * shape.kv_heads;
    for (std::int64_t s = 0; s < count; ++s) {
        const std::int64_t begin = step.starts[static_cast<std::size_t>(s)];
        const std::int64_t end = step.starts[static_cast<std::size_t>(s) + 1];
        const std::int64_t length = step.lengths[static_cast<std::size_t>(s)];
        for (std::int64_t first = begin; first < end; first += block) {
            const std::int64_t last = std::min(first + block, end);
            const std::int64_t query = length - end + first;
            const std::int64_t seen = shape.causal ? length - end + last : length;
            std::int64_t low = 0;
            if (shape.causal && shape.window >= 0 && shape.sinks == 0)
                low = std::max(low, query - shape.window + 1);
            if (shape.causal && args.window >= 0 && args.sinks == 0)
                low = std::max(low, query - args.window + 1);
            const std::int64_t chunk = low / kChunk, chunk_end = (seen + kChunk - 1) / kChunk;
            // Few long sequences: threads share the chunks of each.
            const bool splits = threads > 1 && chunk_end - chunk > 1 && end - begin <= block &&
                                base_units < 4 * threads;
            const std::int64_t step_floats = partial_floats((last - first) * share, shape.head_dim);
            for (std::int64_t g = 0; g < shape.kv_heads; ++g) {
                AttendUnit unit{s, first, last, g, chunk, chunk_end, -1};
                if (!splits) {
                    made.units.push_back(unit);
                    continue;
                }
                unit.partial = made.floats;
                made.merges.push_back(unit);
                for (std::int64_t c = chunk; c < chunk_end; ++c) {
                    unit.chunk = c;
                    unit.chunk_end = c + 1;
                    unit.partial = made.floats;
                    made.units.push_back(unit);
                    made.floats += step_floats;
                }
            }
        }
    }
    return made;
}

void Program::run(const Step& step, std::int64_t first, std::int64_t last) {
    // Before anything is reserved: the scratch is one for each thread.
    Pool::Turn turn(Pool::shared());
    check(step);
    reserve(step);
    const Clock::time_point start = Clock::now();
    Run run{step,
            first,
            last,
            turn.num_threads(),
            {static_cast<std::int64_t>(step.slots.size()), step.starts.data(), step.slots.data(),
             step.lengths.data(), row_sequence_.data()},
            {},
            this};
    turn.run(
        [](void* context, int thread) {
            Run& r = *static_cast<Run*>(context);
            r.program->work(r, thread);
        },
        &run);
    for (const auto& found : thread_best_)
        for (std::size_t row = 0; row < best_.size(); ++row) {
            const Best &a = best_[row], &b = found[row];
            if (a.value != a.value) continue;
            if (b.value != b.value || b.value > a.value ||
                (b.value == a.value && b.index < a.index))
                best_[row] = b;
        }
    if (profiling_) spent_.total += seconds_since(start);
}

void Program::work(Run& run, int thread) {
    const bool timed = profiling_ && thread == 0;
    for (std::int64_t i = run.first; i < run.last; ++i) {
        const Op& op = ops_[static_cast<std::size_t>(i)];
        // Nobody uses the next operation's counter before the barrier that ends this one.
        if (thread == 0) run.next[static_cast<std::size_t>(i + 1) % 2] = 0;
        if (!timed) {
            operate(run, thread, op, i);
            Pool::shared().sync();
            continue;
        }
        const Clock::time_point start = Clock::now();
        operate(run, thread, op, i);
        const double spent = seconds_since(start);
        Pool::shared().sync();
        spent_.waiting += seconds_since(start) - spent;
        if (std::holds_alternative<Embed>(op)) spent_.embed += spent;
        if (std::holds_alternative<Norm>(op)) spent_.norm += spent;
        if (std::holds_alternative<Place>(op)) spent_.place += spent;
        if (std::holds_alternative<Attend>(op)) spent_.attend += spent;
        if (const Linear* l = std::get_if<Linear>(&op))
            (l->epilogue == Epilogue::logits ? spent_.head : spent_.linear) += spent;
    }
}

void Program::operate(Run& run, int thread, const Op& op, std::int64_t index) {
    const Step& step = run.step;
    float* scratch = scratch_[static_cast<std::size_t>(thread)].data();
    if (const Linear* l = std::get_if<Linear>(&op)) {
        const Weights& w = weights_[static_cast<std::size_t>(l->weights)];
        // There is room for the logits of wanted rows alone.
        const bool wanted = l->wanted || l->epilogue == Epilogue::logits;
        LinearArgs args{&w,
                        act(l->in),
                        wanted ? step.num_wanted : step.rows,
                        l->epilogue,
                        l->activation,
                        nullptr,
                        0,
                        {},
                        thread_best_[static_cast<std::size_t>(thread)].data()};
        if (l->epilogue == Epilogue::logits) {
            args.out = step.logits;
            args.out_stride = step.vocabulary;
        } else if (l->epilogue == Epilogue::store || l->epilogue == Epilogue::add) {
            args.out = floats(l->out);
            args.out_stride = buffers_[static_cast<std::size_t>(l->out)].stride;
        } else {
            args.act = act(l->out);
        }
        const auto [begin, end] = share(w.num_panels(), thread, run.threads);
        kernels_->linear(args, begin, end, scratch);
    } else if (const Norm* n = std::get_if<Norm>(&op)) {
        const Buffer& x = buffers_[static_cast<std::size_t>(n->x)];
        const NormArgs args{floats(n->x), x.stride, x.width, n->wanted ? step.wanted : nullptr,
                            n->weight,    n->bias,  n->eps,  act(n->out)};
        const auto [begin, end] =
            share(n->wanted ? step.num_wanted : step.rows, thread, run.threads);
        kernels_->norm(args, begin, end);
    } else if (const Place* p = std::get_if<Place>(&op)) {
        const LayerStores& layer = step.layers[static_cast<std::size_t>(p->layer)];
        ActRows queries = act(p->queries);
        queries.is_bf16 = !is_float_codec(layer.keys.codec);
        const Buffer& qkv = buffers_[static_cast<std::size_t>(p->qkv)];
        const PlaceArgs args{floats(p->qkv),
                             qkv.stride,
                             p->shape,
                             p->q_norm,
                             p->k_norm,
                             p->eps,
                             p->rope_dim > 0 ? step.cos : nullptr,
                             step.sin,
                             step.rope_rows,
                             p->rope_dim,
                             queries,
                             layer.keys,
                             layer.values,
                             step.layouts[static_cast<std::size_t>(layer.layout)],
                             run.sequences};
        const auto [begin, end] =
            share(step.rows * (p->shape.heads + 2 * p->shape.kv_heads), thread, run.threads);
        kernels_->place(args, begin, end);
    } else if (const Attend* a = std::get_if<Attend>(&op)) {
        const LayerStores& layer = step.layers[static_cast<std::size_t>(a->layer)];
        ActRows queries = act(a->queries);
        queries.is_bf16 = !is_float_codec(layer.keys.codec);
        const AttendArgs args{a->shape,
                              queries,
                              layer.keys,
                              layer.values,
                              step.layouts[static_cast<std::size_t>(layer.layout)],
                              run.sequences,
                              act(a->out),
                              partials_.data()};
        const AttendPlan& units = plan(step, *a);
        // Units differ in cost, so whoever is free takes the next.
        std::atomic<std::int64_t>& next = run.next[static_cast<std::size_t>(index) % 2];
        const auto count = static_cast<std::int64_t>(units.units.size());
        for (std::int64_t i = next++; i < count; i = next++)
            kernels_->attend(args, units.units[static_cast<std::size_t>(i)], scratch);
        if (units.merges.empty()) return;
        Pool::shared().sync();
        const auto [begin, end] =
            share(static_cast<std::int64_t>(units.merges.size()), thread, run.threads);
        for (std::int64_t i = begin; i < end; ++i)
            kernels_->merge(args, units.merges[static_cast<std::size_t>(i)]);
    } else if (const Embed* e = std::get_if<Embed>(&op)) {
        const Buffer& out = buffers_[static_cast<std::size_t>(e->out)];
        const EmbedArgs args{&weights_[static_cast<std::size_t>(e->table)],
                             e->position_table,
                             step.tokens,
                             step.positions,
                             floats(e->out),
                             out.stride};
        const auto [begin, end] = share(step.rows, thread, run.threads);
        kernels_->embed(args, begin, end);
    }
}

void Program::read_buffer(int buffer, std::int64_t rows, float* out) const {
    const Buffer& b = buffers_[static_cast<std::size_t>(buffer)];
    for (std::int64_t row = 0; row < rows; ++row)
        std::memcpy(out + row * b.width, floats(buffer) + row * b.stride,
                    static_cast<std::size_t>(b.width) * 4);
}

void Program::read_queries(int buffer, std::int64_t rows, const AttentionShape& shape, bool floats,
                           float* out) const {
    const Buffer& b = buffers_[static_cast<std::size_t>(buffer)];
    const std::int64_t padded = round_up(shape.head_dim, 32);
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t head = 0; head < shape.heads; ++head)
            for (std::int64_t d = 0; d < shape.head_dim; ++d) {
                const std::int64_t at = row * b.stride + head * padded + d;
                float x;
                if (floats) {
                    x = reinterpret_cast<const float*>(b.memory.get())[at];
                } else {
                    const std::uint32_t bits =
                        static_cast<std::uint32_t>(
                            reinterpret_cast<const std::uint16_t*>(b.memory.get())[at])
                        << 16;
                    std::memcpy(&x, &bits, sizeof x);
                }
                out[(row * shape.heads + head) * shape.head_dim + d] = x;
            }
}

void Program::write_queries(int buffer, std::int64_t rows, const AttentionShape& shape, bool floats,
                            const std::byte* in) {
    Buffer& b = buffers_[static_cast<std::size_t>(buffer)];
    grow(b, rows);
    const std::int64_t size = floats ? 4 : 2, padded = round_up(shape.head_dim, 32);
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t head = 0; head < shape.heads; ++head) {
            std::byte* to = b.memory.get() + (row * b.stride + head * padded) * size;
            const auto width = static_cast<std::size_t>(shape.head_dim * size);
            std::memcpy(to, in + (row * shape.heads + head) * shape.head_dim * size, width);
            // What lay there may have been numbers of another size.
            std::memset(to + width, 0, static_cast<std::size_t>(padded * size) - width);
        }
}

void Program::profile(bool on) {
    profiling_ = on;
    spent_ = {};
}

}  // namespace kept
