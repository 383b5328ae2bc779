// Operations of latent attention: products of each head with a matrix of its own, and placing what
// its heads attend.
#include <algorithm>

#include "must.h"
#include "program_run.h"

namespace kept {
namespace {

// The same rows from a column on.
ActRows from_column(ActRows rows, std::int64_t first) {
    rows.data = static_cast<std::byte*>(rows.data) + first * (rows.is_bf16 ? 2 : 4);
    return rows;
}

void must_hold_floats(const RowBuffer& rows) {
    must(!rows.holds_codes() && !rows.act().is_bf16, "rows are placed as floats");
}

}  // namespace

void Program::operate(Run& run, const HeadProducts& op, Part part) {
    const auto& weights = expert_weights_[static_cast<std::size_t>(op.weights)];
    const std::int64_t panels = weights.front().num_panels(), width = weights.front().num_out;
    const auto heads = static_cast<std::int64_t>(weights.size());
    float* const scratch = scratch_[static_cast<std::size_t>(part.thread)].data();
    const auto [begin, end] = part.of(heads * panels);
    for (std::int64_t head = begin / panels; head * panels < end; ++head) {
        LinearArgs args{};
        args.weights = &weights[static_cast<std::size_t>(head)];
        args.in = from_column(buffer(op.in).act(), op.begin + head * op.apart);
        args.rows = run.step.rows;
        args.epilogue = Epilogue::activate;
        args.activation = Activation::none;
        args.act = from_column(buffer(op.out).act(), head * width);
        const std::int64_t before = head * panels;
        kernels_->linear(args, std::max(begin - before, std::int64_t{0}),
                         std::min(end - before, panels), scratch);
    }
}

void Program::operate(Run& run, const PlaceLatent& op, Part part) {
    const Step& step = run.step;
    const LayerStores& layer = step.layers[static_cast<std::size_t>(op.layer)];
    ActRows queries = buffer(op.queries).act();
    queries.is_bf16 = !computes_in_floats(layer.keys.stored, layer.values.stored);
    PlaceLatentArgs args{};
    args.absorbed = buffer(op.absorbed).floats();
    args.absorbed_stride = buffer(op.absorbed).stride();
    args.turning = buffer(op.turning).floats();
    args.turning_stride = buffer(op.turning).stride();
    args.begin = op.begin;
    args.apart = op.apart;
    args.compressed = buffer(op.compressed).floats();
    args.compressed_stride = buffer(op.compressed).stride();
    args.norm = op.norm;
    args.to.shape = op.shape;
    args.to.eps = op.eps;
    args.to.neighbours = op.rotary.neighbours;
    args.to.cos = op.rotary.dim > 0 ? step.cos : nullptr;
    args.to.sin = step.sin;
    args.to.rope_rows = step.rope_rows;
    args.to.rope_dim = op.rotary.dim;
    args.to.rope_begin = op.rotary.begin;
    args.to.rope_stride = op.rotary.stride;
    args.to.queries = queries;
    args.to.keys = layer.keys.stored;
    args.to.layout = step.layouts[static_cast<std::size_t>(layer.layout)];
    args.to.sequences = sequences(step, layer.layout);
    const auto [begin, end] = part.of(step.rows * (op.shape.heads + 1));
    kernels_->place_latent(args, begin, end);
}

void Program::check_op(const HeadProducts& op) const {
    must(op.weights >= 0 && op.weights < static_cast<int>(expert_weights_.size()),
         "there are no such matrices of heads");
    const auto& weights = expert_weights_[static_cast<std::size_t>(op.weights)];
    const Weights& first = weights.front();
    for (const Weights& w : weights)
        must(w.num_out == first.num_out && w.num_in == first.num_in && w.format == first.format &&
                 !w.gated,
             "heads differ in their size or format");
    // Of others what lies behind a head would be the next one's.
    must(first.num_in % kGroup == 0 && first.num_out % kPanel == 0,
         "a head's matrix is of whole panels");
    const RowBuffer &in = known(op.in), &out = known(op.out);
    must(!in.holds_codes() && !out.holds_codes(), "heads are multiplied as numbers");
    must(in.act().is_bf16 == (first.format != Format::fp32), "rows are as their matrices");
    const auto count = static_cast<std::int64_t>(weights.size());
    must(op.begin >= 0 && op.apart >= 0 &&
             op.begin + (count - 1) * op.apart + first.num_in <= in.width() &&
             count * first.num_out <= out.width(),
         "heads outgrow the rows that they are taken from or put into");
}

void Program::check_op(const PlaceLatent& op) const {
    const AttentionShape& s = op.shape;
    for (const int name : {op.absorbed, op.turning, op.compressed}) must_hold_floats(known(name));
    must(!known(op.queries).holds_codes(), "queries are numbers");
    must(s.head_dim <= kMaxHeadDim && s.value_dim >= 1 && s.value_dim < s.head_dim &&
             s.kv_heads == 1 && s.heads >= 1 && s.in_keys,
         "a latent is the beginning of the one key that all heads have");
    const std::int64_t turning = s.head_dim - s.value_dim;
    must(s.heads * s.value_dim <= known(op.absorbed).width() &&
             s.head_dim <= known(op.compressed).width() && op.begin >= 0 && op.apart >= 0 &&
             op.begin + (s.heads - 1) * op.apart + turning <= known(op.turning).width() &&
             s.heads * round_up(s.head_dim, 32) <= known(op.queries).stride(),
         "heads outgrow the rows that they are taken from or put into");
    check_rotary(op.rotary, turning);
}

}  // namespace kept
