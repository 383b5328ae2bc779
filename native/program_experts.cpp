// What a program does of a mixture of experts: the choice of each row, the products of those that
// were chosen, and their sum.
#include <algorithm>
#include <cstring>

#include "must.h"
#include "program_run.h"

namespace kept {
namespace {

// Rows whose products take about as long as reading their panel from memory, whatever the format.
constexpr std::int64_t kRowsOfReading = 32;
// That a thread takes at least, of few rows.
constexpr std::int64_t kLeastPanels = 2;

// Of a panel.
std::int64_t cost_of(const Chosen& chosen) {
    return chosen.count + kRowsOfReading;
}

std::byte* at(void* data, std::int64_t bytes) {
    return static_cast<std::byte*>(data) + bytes;
}

ActRows from_row(ActRows rows, std::int64_t first) {
    rows.data = at(rows.data, first * rows.stride * (rows.is_bf16 ? 2 : 4));
    return rows;
}

CodeRows from_row(CodeRows rows, std::int64_t first) {
    rows.data += first * rows.stride();
    return rows;
}

}  // namespace

void Program::operate(Run& run, const Choose& op, Part part) {
    const auto [begin, end] = part.of(run.step.rows);
    const RowBuffer& scores = buffer(op.scores);
    routes_.choose(op.routing, scores.floats(), scores.stride(), begin, end,
                   scratch_[static_cast<std::size_t>(part.thread)].data());
}

void Program::group(const Run& run, const Choose& op) {
    routes_.group(op.routing, run.step.rows);
}

void Program::operate(Run& run, const Gather& op, Part part) {
    if (run.step.rows == 1) return;  // every expert reads the only row where it lies
    const RowBuffer &from = buffer(op.x), &to = buffer(op.out);
    const auto size = static_cast<std::size_t>(from.row_bytes());
    const auto [begin, end] = part.of(run.step.rows * to.per_row());
    for (std::int64_t slot = begin; slot < end; ++slot)
        std::memcpy(to.row(slot), from.row(routes_.rows()[slot]), size);
}

void Program::operate(Run& run, const Experts& op, Part part) {
    const auto& weights = expert_weights_[static_cast<std::size_t>(op.weights)];
    const std::int64_t panels = weights.front().num_panels();
    std::int64_t total = 0;
    for (const Chosen& c : routes_.chosen()) total += panels * cost_of(c);
    const std::int64_t least = std::max(kLeastPanels * kRowsOfReading, total / run.threads / 8);
    shares_.each(part.thread, total, least, [&](std::int64_t begin, std::int64_t end) {
        std::int64_t before = 0;
        for (const Chosen& c : routes_.chosen()) {
            // Panels that begin within what is taken.
            const std::int64_t each = cost_of(c);
            const auto panel_at = [&](std::int64_t cost) {
                return std::clamp<std::int64_t>((cost - before + each - 1) / each, 0, panels);
            };
            const std::int64_t first = begin > before ? panel_at(begin) : 0;
            const std::int64_t last = end > before ? panel_at(end) : 0;
            before += panels * each;
            if (first < last) multiply(run, op, c, first, last, part.thread);
        }
    });
}

void Program::multiply(const Run& run, const Experts& op, const Chosen& chosen, std::int64_t first,
                       std::int64_t last, int thread) {
    const bool is_one_row = run.step.rows == 1 && op.ungathered >= 0;
    const RowBuffer &in = buffer(is_one_row ? op.ungathered : op.in), &out = buffer(op.out);
    LinearArgs args{};
    args.weights = &expert_weights_[static_cast<std::size_t>(op.weights)]
                                   [static_cast<std::size_t>(chosen.expert)];
    const std::int64_t first_in = is_one_row ? 0 : chosen.first;
    if (in.holds_codes())
        args.codes = from_row(in.codes(), first_in);
    else
        args.in = from_row(in.act(), first_in);
    args.rows = chosen.count;
    args.epilogue = op.epilogue;
    args.activation = op.activation;
    if (op.epilogue == Epilogue::store) {
        args.out = out.floats() + chosen.first * out.stride();
        args.out_stride = out.stride();
    } else {
        args.act = from_row(out.act(), chosen.first);
    }
    const auto linear = in.holds_codes() ? kernels_->linear_codes : kernels_->linear;
    linear(args, first, last, scratch_[static_cast<std::size_t>(thread)].data());
}

void Program::operate(Run& run, const Combine& op, Part part) {
    const RowBuffer &x = buffer(op.x), &out = buffer(op.out);
    CombineArgs args{};
    args.routes = &routes_;
    args.top_k = x.per_row();
    args.x = x.floats();
    args.x_stride = x.stride();
    if (op.shared >= 0) {
        args.shared = buffer(op.shared).floats();
        args.shared_stride = buffer(op.shared).stride();
    }
    args.out = out.floats();
    args.out_stride = out.stride();
    args.add = op.add;
    args.width = x.width();
    const auto [begin, end] = part.of(run.step.rows * args.num_parts());
    kernels_->combine(args, begin, end);
}

void Program::check_op(const Choose& op) const {
    const Routing& r = op.routing;
    must(!known(op.scores).holds_codes() && !known(op.scores).act().is_bf16,
         "experts are chosen by floats");
    must(r.top_k >= 1 && r.top_k <= r.num_experts, "rows go to at least one expert, each once");
    must(r.num_groups >= 1 && r.num_experts % r.num_groups == 0 && r.top_groups >= 1 &&
             r.top_groups <= r.num_groups && r.top_k <= r.top_groups * r.group_size() &&
             r.group_best >= 1 && r.group_best <= std::min(r.group_size(), kMostGroupBest),
         "groups hold as many experts each, and the best of them enough");
    must(r.sigmoid || !r.bias, "only sigmoids are chosen by with a bias");
    must(r.num_experts + r.is_shared <= known(op.scores).width() && known(op.scores).per_row() == 1,
         "each row has a score for every expert");
}

void Program::check_op(const Gather& op) const {
    const RowBuffer &x = known(op.x), &out = known(op.out);
    must(x.holds_codes() == out.holds_codes() && x.row_bytes() == out.row_bytes() &&
             x.act().is_bf16 == out.act().is_bf16 && x.per_row() == 1,
         "rows are gathered as they are");
    check_per_row(out);
}

void Program::check_op(const Experts& op) const {
    must(op.weights >= 0 && op.weights < static_cast<int>(expert_weights_.size()),
         "there are no such experts");
    const auto& weights = expert_weights_[static_cast<std::size_t>(op.weights)];
    const RowBuffer &in = known(op.in), &out = known(op.out);
    check_per_row(in);
    check_per_row(out);
    must(static_cast<std::int64_t>(weights.size()) == last_choice().num_experts,
         "there are as many experts as scores");
    for (const Weights& w : weights)
        must(w.num_out == weights.front().num_out && w.num_in == weights.front().num_in &&
                 w.format == weights.front().format && w.gated == weights.front().gated,
             "experts differ in their size or format");
    must(op.epilogue == Epilogue::store || op.epilogue == Epilogue::gate,
         "what experts make is stored or gates");
    check_product(in, weights.front(), op.epilogue, out);
    if (op.ungathered < 0) return;
    const RowBuffer& one = known(op.ungathered);
    must(one.holds_codes() == in.holds_codes() && one.row_bytes() == in.row_bytes() &&
             one.act().is_bf16 == in.act().is_bf16,
         "rows are gathered as they are");
}

void Program::check_op(const Combine& op) const {
    const RowBuffer &x = known(op.x), &out = known(op.out);
    check_per_row(x);
    must(!x.holds_codes() && !x.act().is_bf16 && !out.holds_codes() && !out.act().is_bf16 &&
             x.width() == out.width(),
         "a sum is as wide as what is added up, of floats");
    must(
        op.shared < 0 || (last_choice().is_shared && !known(op.shared).holds_codes() &&
                          !known(op.shared).act().is_bf16 && known(op.shared).width() == x.width()),
        "what is shared is as wide as the sum, and has a gate");
}

void Program::check_per_row(const RowBuffer& rows) const {
    must(rows.per_row() == last_choice().top_k, "a row has a slot for each expert that it chose");
}

const Routing& Program::last_choice() const {
    for (auto op = ops_.rbegin(); op != ops_.rend(); ++op)
        if (const Choose* found = std::get_if<Choose>(&*op)) return found->routing;
    throw std::invalid_argument("experts are chosen before they are asked");
}

}  // namespace kept
