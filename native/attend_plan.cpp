#include "attend_plan.h"

#include <algorithm>

namespace kept {
namespace {

// The first token that a row sees, of those whose row has `query` tokens before it.
std::int64_t first_seen(const AttentionShape& shape, const LayoutArgs& layout, std::int64_t query) {
    std::int64_t low = 0;
    if (shape.causal && shape.window >= 0 && shape.sinks == 0)
        low = std::max(low, query - shape.window + 1);
    if (shape.causal && layout.window >= 0 && layout.sinks == 0)
        low = std::max(low, query - layout.window + 1);
    return low;
}

// Adds a unit for each key/value head, or one for each chunk of it and what joins them.
void add_units(AttendPlan& made, AttendUnit unit, bool splits, std::int64_t queries) {
    const std::int64_t chunk = unit.chunk, chunk_end = unit.chunk_end;
    const std::int64_t floats = partial_floats(queries, made.shape.head_dim);
    for (std::int64_t g = 0; g < made.shape.kv_heads; ++g) {
        unit.kv_head = g;
        unit.chunk = chunk;
        unit.chunk_end = chunk_end;
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
            made.floats += floats;
        }
    }
}

}  // namespace

bool AttendPlan::fits(const AttentionShape& other, std::int64_t other_layout) const {
    return layout == other_layout && shape.heads == other.heads &&
           shape.kv_heads == other.kv_heads && shape.head_dim == other.head_dim &&
           shape.causal == other.causal && shape.window == other.window &&
           shape.sinks == other.sinks;
}

AttendPlan make_attend_plan(const Step& step, const AttentionShape& shape, std::int64_t layout,
                            std::int64_t threads) {
    AttendPlan made{shape, layout, {}, {}, 0};
    const LayoutArgs& args = step.layouts[static_cast<std::size_t>(layout)];
    const auto& lengths = step.lengths[static_cast<std::size_t>(layout)];
    const std::int64_t share = shape.heads / shape.kv_heads, block = query_rows(share);
    const std::int64_t count = step.num_sequences();
    const std::int64_t base_units = count * shape.kv_heads;
    for (std::int64_t s = 0; s < count; ++s) {
        const std::int64_t begin = step.starts[static_cast<std::size_t>(s)];
        const std::int64_t end = step.starts[static_cast<std::size_t>(s) + 1];
        const std::int64_t length = lengths[static_cast<std::size_t>(s)];
        for (std::int64_t first = begin; first < end; first += block) {
            const std::int64_t last = std::min(first + block, end);
            const std::int64_t seen = shape.causal ? length - end + last : length;
            const std::int64_t chunk = first_seen(shape, args, length - end + first) / kChunk;
            const std::int64_t chunk_end = (seen + kChunk - 1) / kChunk;
            // Few long sequences: threads share the chunks of each.
            const bool splits = threads > 1 && chunk_end - chunk > 1 && end - begin <= block &&
                                base_units < 4 * threads;
            add_units(made, {s, first, last, 0, chunk, chunk_end, -1}, splits,
                      (last - first) * share);
        }
    }
    return made;
}

}  // namespace kept
