// The run of a program: what every thread does of each operation.
#include "program_run.h"

#include <stdexcept>

#include "pool.h"

namespace kept {
namespace {

// Numbers that one thread works through in about the time that a barrier takes.
constexpr std::int64_t kAlone = 8192;
// How many numbers a score is worth where experts are chosen by it.
constexpr std::int64_t kOfChoosing = 8;
// Panels that a thread takes at least, of a few rows, and of more: these are made ready anew with
// each part.
constexpr std::int64_t kFewPanels = 2, kManyPanels = 16;

}  // namespace

constexpr Program::Part Program::kWhole{0, 1};

void Program::run(const Step& step, std::int64_t first, std::int64_t last, bool among_torch) {
    // Before anything is reserved: the scratch is one for each thread.
    Pool::Turn turn(Pool::shared());
    if (first < 0 || first > last || last > num_ops())
        throw std::invalid_argument("a run of operations that the program does not have");
    check(step, first, last);
    reserve(step);
    Run run{step, first, last, turn.num_threads(), this};
    shares_.begin(run.threads);
    const auto work = [](void* context, int thread) {
        Run& r = *static_cast<Run*>(context);
        r.program->work(r, thread);
    };
    if (among_torch)
        turn.run_among_torch(work, &run);
    else
        turn.run(work, &run);
    merge_best();
    if (last == num_ops()) top_.finish(step.logits, step.vocabulary);
}

void Program::work(Run& run, int thread) {
    const Part part{thread, run.threads};
    for (std::int64_t i = run.first, end; i < run.last; i = end) {
        operate(run, i, part);
        const std::int64_t split = split_floats(run.step, op(i));
        const bool merges_alone = split > 0 && split <= kAlone;
        if (split > kAlone) {
            Pool::shared().sync();
            merge(run, std::get<Attend>(op(i)), part);
        }
        for (end = i + 1; end < run.last && is_small(run.step, op(end));) ++end;
        const bool groups = std::holds_alternative<Choose>(op(i));
        if (i + 1 == run.last && !merges_alone && !groups)
            return;  // the job's end is a barrier too
        // All but the last to come wait anyway: it does alone what is not worth another barrier.
        Pool::shared().sync([&] {
            run.next = 0;
            if (merges_alone) merge(run, std::get<Attend>(op(i)), kWhole);
            if (groups) group(run, std::get<Choose>(op(i)));
            for (std::int64_t small = i + 1; small < end; ++small) {
                operate(run, small, kWhole);
                if (const Choose* choice = std::get_if<Choose>(&op(small))) group(run, *choice);
            }
        });
    }
}

void Program::operate(Run& run, std::int64_t index, Part part) {
    std::visit([&](const auto& found) { operate(run, found, part); }, op(index));
}

bool Program::is_small(const Step& step, const Op& op) const {
    if (const Norm* n = std::get_if<Norm>(&op))
        return (n->wanted ? step.num_wanted : step.rows) * buffer(n->x).width() <= kAlone;
    if (const Round* r = std::get_if<Round>(&op)) return step.rows * buffer(r->x).width() <= kAlone;
    if (const Quantize* q = std::get_if<Quantize>(&op))
        return num_rows(step, *q) * buffer(q->x).width() <= kAlone;
    if (const Choose* c = std::get_if<Choose>(&op))
        return step.rows * c->routing.num_experts * kOfChoosing <= kAlone;
    if (const Gather* g = std::get_if<Gather>(&op)) {
        const RowBuffer& out = buffer(g->out);
        return step.rows == 1 || step.rows * out.per_row() * out.width() <= kAlone;
    }
    if (const Combine* c = std::get_if<Combine>(&op))
        return step.rows * buffer(c->x).per_row() * buffer(c->x).width() <= kAlone;
    if (const Columns* c = std::get_if<Columns>(&op)) return step.rows * c->width <= kAlone;
    if (const Match* m = std::get_if<Match>(&op)) return step.rows * buffer(m->x).width() <= kAlone;
    if (const Streams* s = std::get_if<Streams>(&op))
        return step.rows * buffer(s->x).width() <= kAlone;
    if (const Sparse* s = std::get_if<Sparse>(&op))
        return step.rows * buffer(s->gates).width() <= kAlone;
    if (std::holds_alternative<Shrink>(op)) return adapted_.empty();
    if (const Place* p = std::get_if<Place>(&op))
        return step.rows * buffer(p->qkv).width() <= kAlone;
    if (const PlaceLatent* p = std::get_if<PlaceLatent>(&op))
        return step.rows * buffer(p->queries).width() <= kAlone;
    return false;
}

std::int64_t Program::split_floats(const Step& step, const Op& op) {
    const Attend* attend = std::get_if<Attend>(&op);
    return attend ? partial_floats(step, *attend) : 0;
}

void Program::operate(Run& run, const Embed& op, Part part) {
    const EmbedArgs args{
        &weights(op.table),      op.position_table,       run.step.tokens, run.step.positions,
        buffer(op.out).floats(), buffer(op.out).stride(), op.scale};
    const auto [begin, end] = part.of(run.step.rows);
    kernels_->embed(args, begin, end);
}

void Program::operate(Run& run, const Norm& op, Part part) {
    const RowBuffer& x = buffer(op.x);
    ActRows out = buffer(op.out).act();
    out.data = static_cast<std::byte*>(out.data) + op.begin * (out.is_bf16 ? 2 : 4);
    const NormArgs args{x.floats() + op.begin,
                        x.stride(),
                        op.width,
                        op.width < x.width() ? op.width : out.stride,
                        op.wanted ? run.step.wanted : nullptr,
                        op.weight,
                        op.bias,
                        op.eps,
                        out,
                        op.add};
    const auto [begin, end] = part.of(op.wanted ? run.step.num_wanted : run.step.rows);
    kernels_->norm(args, begin, end);
}

void Program::operate(Run& run, const Round& op, Part part) {
    const RowBuffer& x = buffer(op.x);
    const auto [begin, end] = part.of(run.step.rows);
    RoundArgs args{x.floats(), x.stride(), x.width(), buffer(op.out).act(), op.factor};
    if (op.by >= 0) {
        args.by = buffer(op.by).floats() + op.begin;
        args.by_stride = buffer(op.by).stride();
    }
    kernels_->round(args, begin, end);
}

void Program::operate(Run& run, const Quantize& op, Part part) {
    const RowBuffer& x = buffer(op.x);
    const EncodeRowsArgs args{x.floats(), x.stride(), buffer(op.out).codes()};
    const auto [begin, end] = part.of(num_rows(run.step, op));
    kernels_->encode_rows(args, begin, end);
}

LinearArgs Program::linear_args(const Step& step, const Linear& op, int thread) {
    const Weights& w = weights(op.weights);
    // There is room for the logits of wanted rows alone.
    const bool is_head = op.epilogue == Epilogue::logits;
    LinearArgs args{};
    args.weights = &w;
    if (buffer(op.in).holds_codes())
        args.codes = buffer(op.in).codes();
    else
        args.in = buffer(op.in).act();
    args.rows = op.wanted || is_head ? step.num_wanted : step.rows;
    args.epilogue = op.epilogue;
    args.activation = op.activation;
    args.softcap = op.softcap;
    args.scale = op.scale;
    args.best = thread_best_[static_cast<std::size_t>(thread)].data();
    args.top = top_.rows_of(thread);
    if (is_head) {
        args.out = step.logits;
        args.out_stride = step.vocabulary;
    } else if (op.epilogue == Epilogue::store || op.epilogue == Epilogue::add) {
        args.out = buffer(op.out).floats();
        args.out_stride = buffer(op.out).stride();
    } else {
        args.act = buffer(op.out).act();
    }
    return args;
}

void Program::operate(Run& run, const Linear& op, Part part) {
    LinearArgs args = linear_args(run.step, op, part.thread);
    const std::int64_t panels = args.weights->num_panels();
    const std::int64_t least =
        args.rows <= kFewRows ? kFewPanels : std::max(kManyPanels, panels / run.threads / 4);
    const auto linear = args.codes.data ? kernels_->linear_codes : kernels_->linear;
    float* const scratch = scratch_[static_cast<std::size_t>(part.thread)].data();
    shares_.each(part.thread, panels, least, [&](std::int64_t begin, std::int64_t end) {
        args.addend = adapt(op, begin, end);
        linear(args, begin, end, scratch);
        args.goes_on = true;
    });
}

PlaceArgs Program::place_args(const Run& run, const Place& op, std::int64_t index) {
    const Step& step = run.step;
    const LayerStores& layer = step.layers[static_cast<std::size_t>(index)];
    ActRows queries = buffer(op.queries).act();
    queries.is_bf16 = !computes_in_floats(layer.keys.stored, layer.values.stored);
    return {buffer(op.qkv).floats(),
            buffer(op.qkv).stride(),
            op.shape,
            op.norms.q,
            op.norms.k,
            op.norms.v,
            op.norms.eps,
            op.norms.by_head ? op.shape.head_dim : 0,
            op.norms.centred,
            op.rotary.neighbours,
            op.rotary.dim > 0 ? step.cos : nullptr,
            step.sin,
            step.rope_rows,
            op.rotary.dim,
            op.rotary.begin,
            op.rotary.stride,
            queries,
            layer.keys.stored,
            layer.values.stored,
            step.layouts[static_cast<std::size_t>(layer.layout)],
            sequences(step, layer.layout)};
}

void Program::operate(Run& run, const Place& op, Part part) {
    const Step& step = run.step;
    const std::int64_t per_row = op.shape.heads + 2 * op.shape.kv_heads;
    if (!op.crossing || op.shape.kv_heads == 0) {
        // All inputs have their queries alike.
        const PlaceArgs args = place_args(run, op, layer_of(step, op.layer, op.crossing, 0));
        const auto [begin, end] = part.of(step.rows * per_row);
        kernels_->place(args, begin, end);
        return;
    }
    for (std::size_t s = 0; s < step.inputs.of.size(); ++s) {
        const PlaceArgs args =
            place_args(run, op, layer_of(step, op.layer, true, step.inputs.of[s]));
        const std::int64_t first = step.starts[s] * per_row;
        const auto [begin, end] = part.of(step.starts[s + 1] * per_row - first);
        kernels_->place(args, first + begin, first + end);
    }
}

Sequences Program::sequences(const Step& step, std::int64_t layout) const {
    const auto at = static_cast<std::size_t>(layout);
    return {step.num_sequences(), step.starts.data(), step.tables[at].view(),
            step.lengths[at].data(), row_sequence_.data()};
}

AttendArgs Program::attend_args(const Run& run, const Attend& op, std::int64_t index) {
    const LayerStores& layer = run.step.layers[static_cast<std::size_t>(index)];
    ActRows queries = buffer(op.queries).act();
    queries.is_bf16 = !computes_in_floats(layer.keys.stored, layer.values.stored);
    return {op.shape,
            queries,
            layer.keys.stored,
            layer.values.stored,
            run.step.layouts[static_cast<std::size_t>(layer.layout)],
            sequences(run.step, layer.layout),
            buffer(op.out).act(),
            nullptr,
            nullptr,
            op.bias,
            op.idle};
}

template <class F>
void Program::for_each_layer(Run& run, const Attend& op, const F& f) {
    float* partials = partials_.data();
    for (std::int64_t i = 0; i < num_layers(run.step, op); ++i) {
        const AttendPlan& units = plan(run.step, op, i);
        AttendArgs args = attend_args(run, op, layer_of(run.step, op.layer, op.crossing, i));
        args.shape.kv_heads = units.shape.kv_heads;
        args.shape.split = units.shape.split;
        args.all_rows = units.rows.data();
        args.units_end = units.units.data() + units.units.size();
        args.units_apart = run.threads;
        args.partials = partials;
        partials += units.floats;
        f(units, args);
    }
}

void Program::operate(Run& run, const Attend& op, Part part) {
    float* scratch = scratch_[static_cast<std::size_t>(part.thread)].data();
    // Units differ in cost, so whoever is free takes the next.
    std::int64_t before = 0, next = run.next++;
    for_each_layer(run, op, [&](const AttendPlan& units, const AttendArgs& args) {
        const auto count = static_cast<std::int64_t>(units.units.size());
        for (; next < before + count; next = run.next++)
            kernels_->attend(args, units.units[static_cast<std::size_t>(next - before)], scratch);
        before += count;
    });
}

void Program::merge(Run& run, const Attend& op, Part part) {
    for_each_layer(run, op, [&](const AttendPlan& split, const AttendArgs& args) {
        const auto [begin, end] = part.of(static_cast<std::int64_t>(split.merges.size()));
        for (std::int64_t i = begin; i < end; ++i) {
            const AttendPlan::Merge& found = split.merges[static_cast<std::size_t>(i)];
            kernels_->merge(args, split.rows[static_cast<std::size_t>(found.rows)], found.kv_head);
        }
    });
}

}  // namespace kept
