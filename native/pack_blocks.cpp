#include "pack_blocks.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "pack_strips.h"
#include "pool.h"

namespace kept {
namespace {

constexpr std::int64_t kScaleBytes = 2;

// Of nibbles, each in a byte, in 64 bits: what eight of them come to in a column, every other one,
// then those between, in the low half.
typedef std::uint64_t Longs __attribute__((vector_size(16)));

Longs gathered(Longs eight) {
    // Bytes 0 and 2 as one, 1 and 3, and so on; then these from places 0, 1, 4, 5 to 0, 2, 1, 3.
    const Longs pairs = (eight | eight >> 12) & 0x0000ffff0000ffffull;
    const Longs spread = (pairs | pairs << 8) & 0x00ff00ff00ff00ffull;
    return spread | spread >> 24;
}

// The four words of a block of nibbles.
Words nibble_words(const std::byte* codes) {
    constexpr std::uint64_t kLow = 0x0f0f0f0f0f0f0f0full;
    const auto all = reinterpret_cast<Longs>(load_words(codes));
    const auto low = reinterpret_cast<Words>(gathered(all & kLow));
    const auto high = reinterpret_cast<Words>(gathered(all >> 4 & kLow));
    return KEPT_SHUFFLE(Words, low, high, 0, 2, 4, 6);
}

// Which bytes are -128, each as its highest bit.
Longs lowest_codes(Words codes) {
    // A byte of 0x80 is zero once its sign is flipped, and none below it borrows.
    const Longs flipped = reinterpret_cast<Longs>(codes) ^ 0x8080808080808080ull;
    return (flipped - 0x0101010101010101ull) & ~flipped & 0x8080808080808080ull;
}

bool is_finite(std::uint16_t fp16) {
    return (fp16 & 0x7c00) != 0x7c00;
}

// Rows that go into one strip, and where the scales of their first one's panel lie.
struct BlockStrip {
    StripRows to;
    const std::byte* blocks;
    std::int64_t groups;
    std::uint16_t* scales;

    const std::byte* block(std::int64_t row, std::int64_t group) const {
        return blocks + (row * groups + group) * block_bytes(to.format);
    }

    bool put_scales() const {
        bool held = true;
        for (std::int64_t group = 0; group < groups; ++group)
            for (int i = 0; i < to.count; ++i) {
                std::uint16_t scale;
                std::memcpy(&scale, block(i, group), sizeof scale);
                scales[group * kPanel + to.column + i] = scale;
                held &= is_finite(scale);
            }
        return held;
    }

    // Whether the panel holds them.
    bool put() const {
        const bool held = put_scales();
        if (is_nibbles(to.format)) {
            to.put(0, groups, [&](int i, std::int64_t group) {
                return nibble_words(block(i, group) + kScaleBytes);
            });
            return held;
        }
        Longs lowest{};
        to.put(0, 2 * groups, [&](int i, std::int64_t four) {
            const Words codes = load_words(block(i, four / 2) + kScaleBytes + four % 2 * 16);
            lowest |= lowest_codes(codes);
            return codes;
        });
        return held && (lowest[0] | lowest[1]) == 0;
    }
};

// The first of rows among which there is one that no panel holds.
std::int64_t first_wrong(BlockStrip strip) {
    strip.to.count = 1;
    for (std::int64_t row = 0;; ++row, ++strip.to.column) {
        if (!strip.put()) return row;
        strip.blocks += strip.groups * block_bytes(strip.to.format);
    }
}

}  // namespace

std::int64_t pack_block_rows(const Weights& w, const std::byte* rows, std::int64_t first_row,
                             std::int64_t num_rows, std::byte* data, std::uint16_t* scales) {
    const std::int64_t groups = w.num_groups(), row_bytes = groups * block_bytes(w.format);
    std::int64_t wrong = -1;
    for_strips(w, data, first_row, first_row + num_rows, [&](std::int64_t row, StripRows to) {
        const std::int64_t panel = (to.panel - data) / w.bytes_per_panel();
        const BlockStrip strip{to, rows + (row - first_row) * row_bytes, groups,
                               scales + panel * groups * kPanel};
        if (wrong < 0 && !strip.put()) wrong = row + first_wrong(strip);
    });
    return wrong;
}

std::int64_t pack_blocks(const Weights& w, const std::byte* rows, std::int64_t first_row,
                         std::int64_t num_rows, std::byte* data, std::uint16_t* scales) {
    struct Context {
        const Weights& w;
        const std::byte* rows;
        std::int64_t first_row, num_rows;
        std::byte* data;
        std::uint16_t* scales;
        std::vector<std::int64_t> wrong;  // of each thread
    };
    Pool::Turn turn(Pool::shared());
    Context context{w, rows, first_row, num_rows, data, scales, {}};
    context.wrong.assign(static_cast<std::size_t>(turn.num_threads()), -1);
    turn.run(
        [](void* p, int thread) {
            Context& c = *static_cast<Context*>(p);
            const auto count = static_cast<std::int64_t>(c.wrong.size());
            const std::int64_t panels = (c.num_rows + kPanel - 1) / kPanel;
            const std::int64_t first = panels * thread / count * kPanel;
            const std::int64_t last = std::min(panels * (thread + 1) / count * kPanel, c.num_rows);
            const std::int64_t bytes = c.w.num_groups() * block_bytes(c.w.format);
            if (first < last)
                c.wrong[static_cast<std::size_t>(thread)] =
                    pack_block_rows(c.w, c.rows + first * bytes, c.first_row + first, last - first,
                                    c.data, c.scales);
            settle_strips();
        },
        &context);
    const auto found = std::find_if(context.wrong.begin(), context.wrong.end(),
                                    [](std::int64_t row) { return row >= 0; });
    return found == context.wrong.end() ? -1 : *found;
}

}  // namespace kept
