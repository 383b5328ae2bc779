#include "attend_plan.h"

#include <algorithm>
#include <span>

namespace kept {
namespace {

constexpr std::int64_t kLeastHeads = 16;  // of a row that one thread goes through: a turn of them

using Group = std::vector<std::size_t>;  // rows that go through a chunk together, by number

// The first token that a row sees, of those whose row has `query` tokens before it.
std::int64_t first_seen(const AttentionShape& shape, const LayoutArgs& layout, std::int64_t query) {
    std::int64_t low = 0;
    if (shape.causal && shape.window >= 0 && shape.sinks == 0)
        low = std::max(low, query - shape.window + 1);
    if (shape.causal && layout.window >= 0 && layout.sinks == 0)
        low = std::max(low, query - layout.window + 1);
    return low;
}

class Planner {
  public:
    Planner(const Step& step, const AttentionShape& shape, std::int64_t layout,
            std::int64_t threads)
        : step_(step),
          layout_(step.layouts[static_cast<std::size_t>(layout)]),
          tables_(step.tables[static_cast<std::size_t>(layout)].view()),
          lengths_(step.lengths[static_cast<std::size_t>(layout)]),
          share_(shape.heads / shape.kv_heads),
          most_rows_(query_rows(share_)),
          threads_(threads),
          // Few long sequences: threads share the chunks of each.
          few_(threads > 1 && step.num_sequences() * shape.kv_heads < 4 * threads),
          made_{shape, layout, {}, {}, {}, 0} {}

    AttendPlan make() {
        cut_rows();
        const std::vector<std::vector<Group>> groups = find_groups();
        std::int64_t split_chunks = 0;
        for (std::size_t i = 0; i < cut_.size(); ++i) {
            if (!grouped_[i].empty() || splits(cut_[i])) reserve_partial(cut_[i]);
            if (splits(cut_[i])) split_chunks += cut_[i].chunk_end - cut_[i].chunk;
        }
        // Four units for each thread, where there are as many chunks: every new one waits for
        // memory.
        chunks_alone_ =
            std::max<std::int64_t>(1, split_chunks * made_.shape.kv_heads / (4 * threads_));
        for (std::size_t chunk = 0; chunk < groups.size(); ++chunk)
            for (const Group& group : groups[chunk])
                add_units(group, static_cast<std::int64_t>(chunk));
        for (std::size_t i = 0; i < cut_.size(); ++i) add_units(i);
        return std::move(made_);
    }

  private:
    void cut_rows() {
        for (std::int64_t s = 0; s < step_.num_sequences(); ++s) {
            const std::int64_t begin = step_.starts[static_cast<std::size_t>(s)];
            const std::int64_t end = step_.starts[static_cast<std::size_t>(s) + 1];
            const std::int64_t length = lengths_[static_cast<std::size_t>(s)];
            if (length == 0) continue;  // it attends another input
            for (std::int64_t first = begin; first < end; first += most_rows_) {
                const std::int64_t last = std::min(first + most_rows_, end);
                const std::int64_t seen = made_.shape.causal ? length - end + last : length;
                AttendRows rows{s, first, last, 0, (seen + kChunk - 1) / kChunk, -1};
                rows.chunk = first_seen_by(rows) / kChunk;
                cut_.push_back(rows);
            }
        }
        grouped_.resize(cut_.size());
    }

    bool splits(const AttendRows& rows) const {
        const auto s = static_cast<std::size_t>(rows.sequence);
        return few_ && rows.chunk_end - rows.chunk > 1 &&
               step_.starts[s + 1] - step_.starts[s] <= most_rows_;
    }

    std::int64_t first_seen_by(const AttendRows& rows) const {
        const auto s = static_cast<std::size_t>(rows.sequence);
        const std::int64_t behind = step_.starts[s + 1] - rows.first;
        return first_seen(made_.shape, layout_, lengths_[s] - behind);
    }

    // The blocks of a chunk, as far as the rows see: a table may have holes before their window.
    std::span<const std::int32_t> blocks_of(const AttendRows& rows, std::int64_t chunk) const {
        const std::int64_t length = lengths_[static_cast<std::size_t>(rows.sequence)];
        const std::int64_t end = std::min(length, (chunk + 1) * kChunk);
        const std::int64_t first = std::max(chunk * kChunk, first_seen_by(rows)) / layout_.block;
        const std::int64_t last = (end + layout_.block - 1) / layout_.block;
        return {tables_.of(rows.sequence) + first, static_cast<std::size_t>(last - first)};
    }

    // Of each chunk the rows, two or more, whose first block there is the same. Those that have
    // further blocks in common stand side by side.
    std::vector<std::vector<Group>> find_groups() {
        std::vector<std::vector<Group>> found;
        const bool begins_blocks = tables_.columns == 1 || kChunk % layout_.block == 0;
        if (!begins_blocks || step_.num_sequences() == 1) return found;
        std::int64_t end = 0;
        for (const AttendRows& rows : cut_) end = std::max(end, rows.chunk_end);
        found.resize(static_cast<std::size_t>(end));
        for (std::int64_t chunk = 0; chunk < end; ++chunk) {
            Group all;
            for (std::size_t i = 0; i < cut_.size(); ++i)
                if (cut_[i].chunk <= chunk && chunk < cut_[i].chunk_end &&
                    2 * num_queries_of(made_.shape, cut_[i]) <= kMaxQueries)
                    all.push_back(i);
            found[static_cast<std::size_t>(chunk)] = together(std::move(all), chunk);
        }
        return found;
    }

    std::vector<Group> together(Group all, std::int64_t chunk) {
        const auto blocks = [&](std::size_t i) { return blocks_of(cut_[i], chunk); };
        std::stable_sort(all.begin(), all.end(), [&](std::size_t a, std::size_t b) {
            return std::ranges::lexicographical_compare(blocks(a), blocks(b));
        });
        std::vector<Group> found;
        for (std::size_t i = 0, last; i < all.size(); i = last) {
            std::int64_t queries = num_queries_of(made_.shape, cut_[all[i]]);
            for (last = i + 1; last < all.size(); ++last) {
                queries += num_queries_of(made_.shape, cut_[all[last]]);
                if (blocks(all[last]).front() != blocks(all[i]).front() || queries > kMaxQueries)
                    break;
            }
            if (last - i < 2) continue;
            found.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(i),
                               all.begin() + static_cast<std::ptrdiff_t>(last));
            for (const std::size_t member : found.back()) grouped_[member].push_back(chunk);
        }
        return found;
    }

    void reserve_partial(AttendRows& rows) {
        rows.partial = made_.floats;
        const std::int64_t queries = num_queries_of(made_.shape, rows);
        made_.floats += made_.shape.kv_heads * (rows.chunk_end - rows.chunk) *
                        partial_floats(queries, made_.shape.value_dim);
    }

    void add_units(const Group& group, std::int64_t chunk) {
        const auto begin = static_cast<std::int64_t>(made_.rows.size());
        for (const std::size_t i : group) made_.rows.push_back(cut_[i]);
        add_unit(begin, chunk, chunk + 1);
    }

    // What is left of rows besides the chunks that they go through with others.
    void add_units(std::size_t index) {
        const AttendRows& rows = cut_[index];
        const auto begin = static_cast<std::int64_t>(made_.rows.size());
        made_.rows.push_back(rows);
        if (rows.partial >= 0)
            for (std::int64_t g = 0; g < made_.shape.kv_heads; ++g)
                made_.merges.push_back({begin, g});
        const auto is_free = [&](std::int64_t chunk) {
            return std::ranges::find(grouped_[index], chunk) == grouped_[index].end();
        };
        for (std::int64_t chunk = rows.chunk, end; chunk < rows.chunk_end; chunk = end) {
            end = chunk + 1;
            if (!is_free(chunk)) continue;
            const bool alone = rows.partial >= 0 && few_;
            const std::int64_t most = alone ? chunk + chunks_alone_ : rows.chunk_end;
            while (end < std::min(most, rows.chunk_end) && is_free(end)) ++end;
            add_unit(begin, chunk, end);
        }
    }

    void add_unit(std::int64_t begin, std::int64_t chunk, std::int64_t chunk_end) {
        const auto end = static_cast<std::int64_t>(made_.rows.size());
        for (std::int64_t g = 0; g < made_.shape.kv_heads; ++g)
            made_.units.push_back({begin, end, g, chunk, chunk_end});
    }

    const Step& step_;
    const LayoutArgs& layout_;
    BlockTables tables_;
    const std::vector<std::int64_t>& lengths_;
    std::int64_t share_, most_rows_, threads_;
    bool few_;
    std::int64_t chunks_alone_ = 1;  // in one unit of rows whose chunks threads share
    std::vector<AttendRows> cut_;
    std::vector<std::vector<std::int64_t>> grouped_;  // of each, chunks it shares
    AttendPlan made_;
};

// Where all heads have one key and rows are fewer than threads, threads share the heads of a row:
// products with a latent outweigh reading it more than once.
AttentionShape split_heads(const Step& step, AttentionShape shape, std::int64_t threads) {
    if (!shape.in_keys) return shape;
    const std::int64_t rows = query_rows(shape.heads / shape.kv_heads);
    std::int64_t parts = 0;
    for (std::size_t s = 0; s + 1 < step.starts.size(); ++s)
        parts += (step.starts[s + 1] - step.starts[s] + rows - 1) / rows;
    const auto halves = [&] {
        const std::int64_t share = shape.heads / shape.kv_heads;
        return share % 2 == 0 && share / 2 >= kLeastHeads;
    };
    while (parts * shape.kv_heads < threads && halves()) shape.kv_heads *= 2, shape.split *= 2;
    return shape;
}

}  // namespace

bool AttendPlan::fits(const AttentionShape& other, std::int64_t other_layout) const {
    return layout == other_layout && shape.heads == other.heads &&
           shape.stored_heads() == other.stored_heads() && shape.value_dim == other.value_dim &&
           shape.causal == other.causal && shape.window == other.window &&
           shape.sinks == other.sinks;
}

AttendPlan make_attend_plan(const Step& step, const AttentionShape& shape, std::int64_t layout,
                            std::int64_t threads) {
    return Planner(step, split_heads(step, shape, threads), layout, threads).make();
}

}  // namespace kept
