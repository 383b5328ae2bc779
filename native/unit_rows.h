// The rows of a unit of attention, and which tile the same thread comes to later.
#pragma once

#include <algorithm>

#include "place.h"
#include "tile_softmax.h"

namespace kept::KEPT_NS {

// Rows of a unit, and where the queries of each begin among those of all.
struct UnitRows {
    const AttendArgs& args;
    const AttendUnit& unit;

    std::int64_t share() const { return args.shape.heads / args.shape.kv_heads; }
    const AttendRows& at(std::int64_t i) const { return args.all_rows[i]; }
    std::int64_t num_queries() const { return queries_before(unit.end); }
    // Whether some of them are finished here, and not by a merge.
    bool any_finished() const {
        return std::any_of(args.all_rows + unit.begin, args.all_rows + unit.end,
                           [](const AttendRows& of) { return of.partial < 0; });
    }
    std::int64_t queries_before(std::int64_t index) const {
        std::int64_t count = 0;
        for (std::int64_t i = unit.begin; i < index; ++i)
            count += num_queries_of(args.shape, at(i));
        return count;
    }
    std::int64_t length(const AttendRows& rows) const {
        return args.sequences.lengths[rows.sequence];
    }
    // The token that a row is of, of those of one sequence.
    std::int64_t token_of(const AttendRows& rows, std::int64_t row) const {
        return length(rows) - args.sequences.starts[rows.sequence + 1] + row;
    }
    // What the scores of a head of the group take on over a tile so far behind a query.
    TileBias bias(std::int64_t head_of_group, std::int64_t distance) const {
        const std::int64_t head = unit.kv_head * share() + head_of_group;
        if (args.bias.table) return {args.bias.of(head, distance), 0, 0};
        if (args.bias.slopes)
            return {nullptr, args.bias.slopes[head], static_cast<float>(distance)};
        return {};
    }
    BlockEntries where(const AttendRows& rows, std::int64_t token) const {
        return {args.layout,
                args.sequences.tables,
                rows.sequence,
                args.shape.stored_heads(),
                unit.kv_head / args.shape.split,
                token};
    }
};

// What is fetched from memory while a tile is worked on: keys and values of a tile so many later.
// With less the few queries of a step wait for memory.
constexpr std::int64_t kTilesFetched = 4;

struct LaterEntries {
    std::int64_t first = 0, count = 0;
};

// What a thread attends so many tiles after the one that begins with `token`, of rows that begin
// with `first`: of the same unit, or of those that it will take as things stand. Nothing where it
// sees no more than a window, as these units do not begin with their first tiles.
inline LaterEntries later_entries(const UnitRows& rows, std::int64_t first, std::int64_t token) {
    const AttendArgs& args = rows.args;
    const AttendUnit* unit = &rows.unit;
    const bool goes_on = args.shape.window < 0 && args.layout.window < 0;
    std::int64_t later = token + kTilesFetched * kTile;
    for (const AttendRows* of = &rows.at(first);; of = args.all_rows + unit->begin) {
        const UnitRows at{args, *unit};
        const std::int64_t end = std::min(at.length(*of), unit->chunk_end * kChunk);
        if (later < end) return {at.where(*of, later).of(later), std::min(end - later, kTile)};
        if (!goes_on || args.units_apart == 0 || args.units_end - unit <= args.units_apart)
            return {};
        unit += args.units_apart;
        later += unit->chunk * kChunk - round_up(end, kTile);
    }
}

}  // namespace kept::KEPT_NS
