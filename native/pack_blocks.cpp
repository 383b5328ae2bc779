#include "pack_blocks.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "pool.h"

namespace kept {
namespace {

constexpr std::int64_t kTogether = 8;  // blocks of a row, which the nearest cache holds of a panel

using Word = std::uint32_t;

// Eight nibbles, each in a byte, as a column has them: every other one, then those between.
Word gathered(std::uint64_t eight) {
    // Bytes 0 and 2 as one, 1 and 3, and so on.
    const std::uint64_t x = eight | eight >> 12;
    return static_cast<Word>((x & 0xff) | (x >> 24 & 0xff00) | (x << 8 & 0xff0000) |
                             (x >> 16 & 0xff000000));
}

void put_nibbles(const std::byte* codes, std::byte* steps, std::int64_t column) {
    constexpr std::uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
    for (int half = 0; half < 2; ++half) {  // of the 16 bytes
        std::uint64_t eight;
        std::memcpy(&eight, codes + 8 * half, sizeof eight);
        const Word low = gathered(eight & kLow), high = gathered(eight >> 4 & kLow);
        std::memcpy(steps + half * kStepBytes + 4 * column, &low, sizeof low);
        std::memcpy(steps + (2 + half) * kStepBytes + 4 * column, &high, sizeof high);
    }
}

// Whether none of the codes is -128.
bool put_bytes(const std::byte* codes, std::byte* steps, std::int64_t column) {
    std::byte* const to = steps + column / 4 * 16 + column % 4 * 2;
    std::uint64_t strange = 0;
    for (int i = 0; i < kGroup; i += 8) {
        std::uint64_t eight;
        std::memcpy(&eight, codes + i, sizeof eight);
        // A byte of 0x80 is zero once its sign is flipped, and none below it borrows.
        const std::uint64_t flipped = eight ^ 0x8080808080808080;
        strange |= (flipped - 0x0101010101010101) & ~flipped & 0x8080808080808080;
        for (int pair = 0; pair < 4; ++pair)
            std::memcpy(to + (i / 4 + pair / 2) * kStepBytes + pair % 2 * 8, codes + i + 2 * pair,
                        2);
    }
    return strange == 0;
}

bool is_finite(std::uint16_t fp16) {
    return (fp16 & 0x7c00) != 0x7c00;
}

struct BlockRows {
    const Weights& w;
    const std::byte* rows;
    std::int64_t first_row;
    std::byte* data;
    std::uint16_t* scales;

    // Blocks [begin, end) of a row; whether the panels hold them.
    bool put(std::int64_t row, std::int64_t begin, std::int64_t end) const {
        const std::int64_t size = block_bytes(w.format), groups = w.num_groups();
        const std::int64_t place = w.place(first_row + row);
        const std::int64_t panel = place / kPanel, column = place % kPanel;
        const std::int64_t bytes = panel_bytes(w.format, kGroup);
        const std::byte* block = rows + (row * groups + begin) * size;
        std::byte* steps = data + panel * w.bytes_per_panel() + begin * bytes;
        bool held = true;
        for (std::int64_t group = begin; group < end; ++group, block += size, steps += bytes) {
            std::uint16_t scale;
            std::memcpy(&scale, block, sizeof scale);
            scales[(panel * groups + group) * kPanel + column] = scale;
            held &= is_finite(scale);
            if (w.format == Format::q8_0)
                held &= put_bytes(block + sizeof scale, steps, column);
            else
                put_nibbles(block + sizeof scale, steps, column);
        }
        return held;
    }

    // Rows of a panel are written together, some blocks at a time, so that lines are whole when
    // they leave the cache. The first row that is not held, or `last`.
    std::int64_t put_all(std::int64_t first, std::int64_t last) const {
        std::int64_t wrong = last;
        for (std::int64_t row = first; row < last;) {
            const std::int64_t end = std::min((row / kPanel + 1) * kPanel, last);
            for (std::int64_t group = 0; group < w.num_groups(); group += kTogether)
                for (std::int64_t i = row; i < end; ++i)
                    if (!put(i, group, std::min(group + kTogether, w.num_groups())))
                        wrong = std::min(wrong, i);
            row = end;
        }
        return wrong;
    }
};

}  // namespace

std::int64_t pack_blocks(const Weights& shape, const std::byte* rows, std::int64_t first_row,
                         std::int64_t num_rows, std::byte* data, std::uint16_t* scales) {
    struct Context {
        const BlockRows all;
        std::int64_t num_rows;
        std::vector<std::int64_t> wrong;
    };
    Pool::Turn turn(Pool::shared());
    const int threads = turn.num_threads();
    Context context{{shape, rows, first_row, data, scales},
                    num_rows,
                    std::vector<std::int64_t>(static_cast<std::size_t>(threads), num_rows)};
    turn.run(
        [](void* p, int thread) {
            Context& c = *static_cast<Context*>(p);
            const auto count = static_cast<std::int64_t>(c.wrong.size());
            const std::int64_t panels = (c.num_rows + kPanel - 1) / kPanel;
            const std::int64_t first = panels * thread / count * kPanel;
            const std::int64_t last = std::min(panels * (thread + 1) / count * kPanel, c.num_rows);
            const std::int64_t found = c.all.put_all(first, last);
            if (found < last) c.wrong[static_cast<std::size_t>(thread)] = found;
        },
        &context);
    const std::int64_t wrong = *std::min_element(context.wrong.begin(), context.wrong.end());
    return wrong < num_rows ? first_row + wrong : -1;
}

}  // namespace kept
