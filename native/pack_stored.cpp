#include "pack_stored.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "pack_blocks.h"
#include "pack_strips.h"
#include "pool.h"

namespace kept {
namespace {

constexpr std::int64_t kTogether = std::int64_t{1} << 18;  // bytes read at a time, or a panel's

using End = PackedRows::End;

PackedRows read(const StoredRows& from, std::int64_t part, std::int64_t start, std::int64_t size,
                std::byte* to) {
    for (std::int64_t done = 0; done < size;) {
        const auto got = pread(from.file, to + done, static_cast<std::size_t>(size - done),
                               static_cast<off_t>(from.start + start + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return {End::failed, part, errno};
        if (got == 0) return {End::cut, part, 0};
        done += got;
    }
    return {};
}

struct Packing {
    const Weights& w;
    std::span<const StoredRows> parts;
    std::byte* data;
    std::uint16_t* scales;
    std::int64_t row_bytes = stored_row_bytes(w);
    std::int64_t panel_bytes = std::max<std::int64_t>(w.panel_width() * row_bytes, 1);
    std::int64_t step = std::max<std::int64_t>(kTogether / panel_bytes, 1);  // panels at a time

    // For one of `threads` that share the panels.
    std::int64_t room_bytes(std::int64_t threads) const {
        return std::min(step, (w.num_panels() + threads - 1) / threads) * panel_bytes;
    }

    // Rows [first, last) of the matrix.
    PackedRows read_rows(std::int64_t first, std::int64_t last, std::byte* room) const {
        std::int64_t begin = 0;  // of a part
        for (std::size_t i = 0; i < parts.size(); begin += parts[i++].num_rows) {
            const std::int64_t from = std::max(first, begin);
            const std::int64_t to = std::min(last, begin + parts[i].num_rows);
            if (from >= to) continue;
            const PackedRows found =
                read(parts[i], static_cast<std::int64_t>(i), (from - begin) * row_bytes,
                     (to - from) * row_bytes, room + (from - first) * row_bytes);
            if (found.end != End::whole) return found;
        }
        return {};
    }

    PackedRows put_rows(std::int64_t first, std::int64_t last, const std::byte* rows) const {
        if (scales) {
            const std::int64_t wrong = pack_block_rows(w, rows, first, last - first, data, scales);
            return wrong < 0 ? PackedRows{} : PackedRows{End::strange, wrong, 0};
        }
        const std::int64_t whole = row_bytes / 16, rest = row_bytes % 16;
        for_strips(w, data, first, last, [&](std::int64_t row, StripRows to) {
            const std::byte* from = rows + (row - first) * row_bytes;
            to.put(0, whole, [&](int i, std::int64_t four) {
                return load_words(from + i * row_bytes + 16 * four);
            });
            if (rest == 0) return;
            to.put(whole, whole + 1, [&](int i, std::int64_t) {
                Words words{};
                std::memcpy(&words, from + (i + 1) * row_bytes - rest,
                            static_cast<std::size_t>(rest));
                return words;
            });
        });
        return {};
    }

    // Of a gated matrix a panel has gates, and the ups that belong to them. room: `room_bytes`.
    PackedRows pack_panels(std::int64_t first, std::int64_t last, std::byte* room) const {
        const std::int64_t rows_each = w.panel_width();
        for (std::int64_t panel = first; panel < last; panel += step)
            for (std::int64_t half = 0; half < w.num_out; half += w.width()) {
                const std::int64_t begin = panel * rows_each;
                const std::int64_t end =
                    std::min(std::min(panel + step, last) * rows_each, w.width());
                PackedRows found = read_rows(half + begin, half + end, room);
                if (found.end == End::whole) found = put_rows(half + begin, half + end, room);
                if (found.end != End::whole) return found;
            }
        settle_strips();
        return {};
    }
};

}  // namespace

std::int64_t stored_row_bytes(const Weights& w) {
    if (group_scales_of(w.format) == GroupScales::fp16)
        return w.num_groups() * block_bytes(w.format);
    return w.num_in * (w.format == Format::fp32 ? 4 : 2);
}

PackedRows pack_stored(const Weights& w, std::span<const StoredRows> parts, std::byte* data,
                       std::uint16_t* scales) {
    struct Context {
        const Packing packing;
        std::vector<PackedRows> found;  // of each thread
        std::int64_t room_bytes = 0;
        std::unique_ptr<std::byte[]> room;  // of each thread, made here as a job must not throw
    };
    Pool::Turn turn(Pool::shared());
    Context context{{w, parts, data, scales}, {}, 0, nullptr};
    const auto threads = static_cast<std::size_t>(turn.num_threads());
    context.found.resize(threads);
    context.room_bytes = context.packing.room_bytes(turn.num_threads());
    context.room = std::make_unique_for_overwrite<std::byte[]>(
        threads * static_cast<std::size_t>(context.room_bytes));
    turn.run(
        [](void* p, int thread) {
            Context& c = *static_cast<Context*>(p);
            const auto count = static_cast<std::int64_t>(c.found.size());
            const std::int64_t panels = c.packing.w.num_panels();
            c.found[static_cast<std::size_t>(thread)] =
                c.packing.pack_panels(panels * thread / count, panels * (thread + 1) / count,
                                      c.room.get() + thread * c.room_bytes);
        },
        &context);
    const auto wrong = std::find_if(context.found.begin(), context.found.end(),
                                    [](const PackedRows& x) { return x.end != End::whole; });
    return wrong == context.found.end() ? PackedRows{} : *wrong;
}

}  // namespace kept
