// The run of a program: what every thread does of each operation.
#include <array>
#include <atomic>

#include "pool.h"
#include "program.h"

namespace kept {
namespace {

bool is_float_codec(Codec codec) {
    return codec == Codec::fp32 || codec == Codec::fp16;
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

void Program::run(const Step& step, std::int64_t first, std::int64_t last) {
    // Before anything is reserved: the scratch is one for each thread.
    Pool::Turn turn(Pool::shared());
    check(step);
    reserve(step);
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
    merge_best();
}

void Program::work(Run& run, int thread) {
    for (std::int64_t i = run.first; i < run.last; ++i) {
        // Nobody uses the next operation's counter before the barrier that ends this one.
        if (thread == 0) run.next[static_cast<std::size_t>(i + 1) % 2] = 0;
        const Part part{thread, run.threads, run.next[static_cast<std::size_t>(i) % 2]};
        std::visit([&](const auto& op) { operate(run, op, part); },
                   ops_[static_cast<std::size_t>(i)]);
        Pool::shared().sync();
    }
}

void Program::operate(Run& run, const Embed& op, Part part) {
    const EmbedArgs args{&weights(op.table), op.position_table,       run.step.tokens,
                         run.step.positions, buffer(op.out).floats(), buffer(op.out).stride()};
    const auto [begin, end] = part.of(run.step.rows);
    kernels_->embed(args, begin, end);
}

void Program::operate(Run& run, const Norm& op, Part part) {
    const RowBuffer& x = buffer(op.x);
    const NormArgs args{x.floats(), x.stride(), x.width(), op.wanted ? run.step.wanted : nullptr,
                        op.weight,  op.bias,    op.eps,    buffer(op.out).act()};
    const auto [begin, end] = part.of(op.wanted ? run.step.num_wanted : run.step.rows);
    kernels_->norm(args, begin, end);
}

void Program::operate(Run& run, const Linear& op, Part part) {
    const Step& step = run.step;
    const Weights& w = weights(op.weights);
    // There is room for the logits of wanted rows alone.
    const bool is_head = op.epilogue == Epilogue::logits;
    LinearArgs args{};
    args.weights = &w;
    args.in = buffer(op.in).act();
    args.rows = op.wanted || is_head ? step.num_wanted : step.rows;
    args.epilogue = op.epilogue;
    args.activation = op.activation;
    args.best = thread_best_[static_cast<std::size_t>(part.thread)].data();
    if (is_head) {
        args.out = step.logits;
        args.out_stride = step.vocabulary;
    } else if (op.epilogue == Epilogue::store || op.epilogue == Epilogue::add) {
        args.out = buffer(op.out).floats();
        args.out_stride = buffer(op.out).stride();
    } else {
        args.act = buffer(op.out).act();
    }
    const auto [begin, end] = part.of(w.num_panels());
    kernels_->linear(args, begin, end, scratch_[static_cast<std::size_t>(part.thread)].data());
}

void Program::operate(Run& run, const Place& op, Part part) {
    const Step& step = run.step;
    const LayerStores& layer = step.layers[static_cast<std::size_t>(op.layer)];
    ActRows queries = buffer(op.queries).act();
    queries.is_bf16 = !is_float_codec(layer.keys.codec);
    const PlaceArgs args{buffer(op.qkv).floats(),
                         buffer(op.qkv).stride(),
                         op.shape,
                         op.q_norm,
                         op.k_norm,
                         op.eps,
                         op.rope_dim > 0 ? step.cos : nullptr,
                         step.sin,
                         step.rope_rows,
                         op.rope_dim,
                         queries,
                         layer.keys,
                         layer.values,
                         step.layouts[static_cast<std::size_t>(layer.layout)],
                         run.sequences};
    const auto [begin, end] = part.of(step.rows * (op.shape.heads + 2 * op.shape.kv_heads));
    kernels_->place(args, begin, end);
}

void Program::operate(Run& run, const Attend& op, Part part) {
    const LayerStores& layer = run.step.layers[static_cast<std::size_t>(op.layer)];
    ActRows queries = buffer(op.queries).act();
    queries.is_bf16 = !is_float_codec(layer.keys.codec);
    const AttendArgs args{op.shape,
                          queries,
                          layer.keys,
                          layer.values,
                          run.step.layouts[static_cast<std::size_t>(layer.layout)],
                          run.sequences,
                          buffer(op.out).act(),
                          partials_.data()};
    const AttendPlan& units = plan(run.step, op);
    float* scratch = scratch_[static_cast<std::size_t>(part.thread)].data();
    // Units differ in cost, so whoever is free takes the next.
    const auto count = static_cast<std::int64_t>(units.units.size());
    for (std::int64_t i = part.next++; i < count; i = part.next++)
        kernels_->attend(args, units.units[static_cast<std::size_t>(i)], scratch);
    if (units.merges.empty()) return;
    Pool::shared().sync();
    const auto [begin, end] = part.of(static_cast<std::int64_t>(units.merges.size()));
    for (std::int64_t i = begin; i < end; ++i)
        kernels_->merge(args, units.merges[static_cast<std::size_t>(i)]);
}

}  // namespace kept
