// What a program does of low-rank adapters: the numbers of adapted rows in their ranks, in an
// operation before the linear layer's; and what these come to, in the layer's own, each thread of
// the panels whose sums it finishes.
#include <algorithm>
#include <stdexcept>

#include "must.h"
#include "program_run.h"

namespace kept {

void AdaptedRows::gather(const std::vector<std::int64_t>& of,
                         const std::vector<std::int64_t>& starts) {
    groups_.clear();
    if (std::ranges::all_of(of, [](std::int64_t adapter) { return adapter < 0; })) return;
    const auto count = static_cast<std::size_t>(starts.back());
    rows_.clear();
    rows_.reserve(count);
    adapter_of_.assign(count, -1);
    const std::int64_t most = std::ranges::max(of);
    groups_.reserve(of.size());
    for (std::int64_t adapter = 0; adapter <= most; ++adapter) {
        const auto first = static_cast<std::int64_t>(rows_.size());
        for (std::size_t s = 0; s < of.size(); ++s) {
            if (of[s] != adapter) continue;
            for (std::int64_t row = starts[s]; row < starts[s + 1]; ++row) {
                rows_.push_back(static_cast<std::int32_t>(row));
                adapter_of_[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(adapter);
            }
        }
        const auto found = static_cast<std::int64_t>(rows_.size()) - first;
        if (found > 0) groups_.push_back({adapter, first, found});
    }
}

int Program::add_adapters(std::vector<LowRank> adapters) {
    must(!adapters.empty(), "there are no adapters");
    must(num_adapters_ < 0 || num_adapters_ == static_cast<std::int64_t>(adapters.size()),
         "layers differ in how many adapters there are");
    num_adapters_ = static_cast<std::int64_t>(adapters.size());
    Adapters made{std::move(adapters), 0};
    for (const LowRank& each : made.each) made.rank = std::max(made.rank, each.rank);
    adapters_.push_back(std::move(made));
    return static_cast<int>(adapters_.size()) - 1;
}

void Program::shrink(int x, int adapters) {
    append(Shrink{x, adapters});
}

void Program::reserve_adapters(const Step& step) {
    adapted_.gather(step.adapters, step.starts);
    if (adapted_.empty()) return;
    std::int64_t outputs = 0;
    for (const Op& op : ops_)
        if (const Linear* l = std::get_if<Linear>(&op))
            if (l->adapters >= 0)
                outputs = std::max(outputs, weights(l->weights).num_panels() * kPanel);
    const auto grow = [&](std::vector<float>& numbers, std::int64_t width) {
        const auto size = static_cast<std::size_t>(step.rows * width);
        if (numbers.size() < size) numbers.resize(size);
    };
    grow(narrow_, most_ranks());
    grow(adapted_sums_, outputs);
}

std::int64_t Program::most_ranks() const {
    std::int64_t most = 0;
    for (const Adapters& each : adapters_) most = std::max(most, each.rank);
    return most;
}

void Program::operate(Run& run, const Shrink& op, Part) {
    if (adapted_.empty()) return;
    const Adapters& adapters = adapters_[static_cast<std::size_t>(op.adapters)];
    const ActRows x = buffer(op.x).act();
    ShrinkArgs args{x.data, x.stride, x.is_bf16, nullptr, nullptr, 0, narrow_.data(), most_ranks()};
    // Groups differ in their rows, so whoever is free takes the next unit.
    std::int64_t before = 0, next = run.next++;
    for (const AdaptedRows::Group& group : adapted_.groups()) {
        args.adapter = &adapters.each[static_cast<std::size_t>(group.adapter)];
        const std::int64_t rank = args.adapter->rank;
        const std::int64_t parts = (rank + kShrinkRanks - 1) / kShrinkRanks;
        const std::int64_t count = parts * ((group.count + kShrinkRows - 1) / kShrinkRows);
        for (; next < before + count; next = run.next++) {
            const std::int64_t first = (next - before) / parts * kShrinkRows;
            const std::int64_t begin = (next - before) % parts * kShrinkRanks;
            args.rows = adapted_.rows(group) + first;
            args.num_rows = std::min(kShrinkRows, group.count - first);
            kernels_->shrink(args, begin, std::min(begin + kShrinkRanks, rank));
        }
        before += count;
    }
}

Addend Program::adapt(const Linear& op, std::int64_t first_panel, std::int64_t last_panel) {
    if (op.adapters < 0 || adapted_.empty()) return {};
    const Adapters& adapters = adapters_[static_cast<std::size_t>(op.adapters)];
    const std::int64_t stride = weights(op.weights).num_panels() * kPanel;
    constexpr std::int64_t per_panel = kPanel / kStrip;
    for (const AdaptedRows::Group& group : adapted_.groups())
        kernels_->expand(
            {&adapters.each[static_cast<std::size_t>(group.adapter)], adapted_.rows(group),
             group.count, narrow_.data(), most_ranks(), adapted_sums_.data(), stride},
            first_panel * per_panel, last_panel * per_panel);
    return {adapted_sums_.data(), stride, adapted_.adapter_of()};
}

const Adapters& Program::known_adapters(int name) const {
    must(name >= 0 && name < static_cast<int>(adapters_.size()), "there are no such adapters");
    return adapters_[static_cast<std::size_t>(name)];
}

void Program::check_op(const Shrink& op) const {
    const RowBuffer& x = known(op.x);
    must(!x.holds_codes() && x.per_row() == 1, "adapters read the numbers of each row");
    for (const LowRank& each : known_adapters(op.adapters).each)
        must(each.rank == 0 || each.padded_in <= x.stride(),
             "an adapter reads beyond the rows of its input");
}

void Program::check_adapters(const Linear& op) const {
    if (op.adapters < 0) return;
    const Shrink* before = ops_.empty() ? nullptr : std::get_if<Shrink>(&ops_.back());
    must(before && before->adapters == op.adapters, "a row's ranks come before its sums");
    must(!op.wanted && op.epilogue != Epilogue::logits, "adapters reach all rows of a layer");
    const Weights& w = weights(op.weights);
    for (const LowRank& each : known_adapters(op.adapters).each)
        must(each.rank == 0 || each.num_strips == w.num_panels() * (kPanel / kStrip),
             "an adapter has other outputs than its layer");
}

void Program::check_adapted(const Step& step) const {
    if (step.adapters.empty()) return;
    must(static_cast<std::int64_t>(step.adapters.size()) == step.num_sequences(),
         "each sequence of a step goes through an adapter, or through none");
    for (const std::int64_t adapter : step.adapters)
        if (adapter >= std::max<std::int64_t>(num_adapters_, 0))
            throw std::out_of_range("a sequence goes through an adapter that there is not");
}

}  // namespace kept
