#include "pack.h"

#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "fp4_bytes.h"
#include "pack_strips.h"
#include "pool.h"

#define KEPT_NS portable
#include "floats.h"

namespace kept {

// -127 -96 -76 -60 -46 -33 -22 -11 0 11 23 36 49 65 84 110: the levels that lost least of the
// formats with one scale a group (docs/decisions/int4.md). All are exact in bf16.
alignas(64) const std::uint16_t kInt4Levels[32] = {
    0xc2fe, 0xc2c0, 0xc298, 0xc270, 0xc238, 0xc204, 0xc1b0, 0xc130, 0x0000, 0x4130, 0x41b8,
    0x4210, 0x4244, 0x4282, 0x42a8, 0x42dc, 0xc2fe, 0xc2c0, 0xc298, 0xc270, 0xc238, 0xc204,
    0xc1b0, 0xc130, 0x0000, 0x4130, 0x41b8, 0x4210, 0x4244, 0x4282, 0x42a8, 0x42dc,
};

// The sign is the highest of four bits; code 8 is zero, as in int4.
alignas(64) const std::uint16_t kFp4Levels[32] = {
    0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x0000, 0xbf00, 0xbf80,
    0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0, 0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040,
    0x4080, 0x40c0, 0x0000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
};

alignas(16) const std::uint8_t kInt4Bytes[2 * kNumInt4Levels] = {
    129, 160, 180, 196, 210, 223, 234, 245, 0,   11,  23,  36,  49,  65,  84,  110,
    1,   32,  52,  68,  82,  95,  106, 117, 128, 139, 151, 164, 177, 193, 212, 238,
};

alignas(16) const std::uint8_t kNibbleBytes[2 * kNumInt4Levels] = {
    248, 249, 250, 251, 252, 253, 254, 255, 0,   1,   2,   3,   4,   5,   6,   7,
    120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135,
};

alignas(16) const std::uint8_t kFp4Bytes[2 * kNumInt4Levels] = {
    0,   1,   2,   3,   4,   6,   8,   12,  0,   255, 254, 253, 252, 250, 248, 244,
    128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116,
};

alignas(64) const std::uint16_t kNibbleLevels[32] = {
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000,
    0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
    0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
};

alignas(64) const std::uint8_t kInt8Tables[128] = {
    0x00, 0x80, 0x00, 0x40, 0x80, 0xa0, 0xc0, 0xe0, 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70,
    0x80, 0x88, 0x90, 0x98, 0xa0, 0xa8, 0xb0, 0xb8, 0xc0, 0xc8, 0xd0, 0xd8, 0xe0, 0xe8, 0xf0, 0xf8,
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c,
    0x40, 0x44, 0x48, 0x4c, 0x50, 0x54, 0x58, 0x5c, 0x60, 0x64, 0x68, 0x6c, 0x70, 0x74, 0x78, 0x7c,
    0x00, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41,
    0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41, 0x41,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
    0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42, 0x42,
};

namespace {

// Runs f(panel) for every panel, shared by the pool's threads.
template <class F>
void for_panels(const Weights& w, const F& f) {
    struct Context {
        const Weights& w;
        const F& f;
        int threads;
    };
    Pool::Turn turn(Pool::shared());
    Context context{w, f, turn.num_threads()};
    turn.run(
        [](void* p, int thread) {
            const Context& c = *static_cast<Context*>(p);
            const std::int64_t panels = c.w.num_panels();
            const std::int64_t last = panels * (thread + 1) / c.threads;
            for (std::int64_t i = panels * thread / c.threads; i < last; ++i) c.f(i);
            settle_strips();
        },
        &context);
}

// The model's row that lies in a column of a panel, or -1: padding.
std::int64_t row_at(const Weights& w, std::int64_t panel, std::int64_t column) {
    if (!w.gated) {
        const std::int64_t row = panel * kPanel + column;
        return row < w.num_out ? row : -1;
    }
    const std::int64_t index = panel * 16 + column % 16;
    return index < w.width() ? column / 16 * w.width() + index : -1;
}

float read_number(const void* source, Source type, std::int64_t i) {
    if (type == Source::fp32) return static_cast<const float*>(source)[i];
    const std::uint16_t x = static_cast<const std::uint16_t*>(source)[i];
    return type == Source::bf16 ? portable::bf16_to_float(x) : portable::fp16_to_float(x);
}

// words(first, count): the words of so many of the model's numbers, of those of four steps or,
// where a row ends, fewer. nothing: the words of padding.
template <class F>
void pack_words(const Weights& w, std::byte* data, Word nothing, const F& words_of) {
    const std::int64_t inputs = 4 * step_inputs(w.format), fours = w.padded_in() / inputs;
    const Words padding{nothing, nothing, nothing, nothing};
    for_panels(w, [&](std::int64_t panel) {
        std::byte* const out = data + panel * w.bytes_per_panel();
        for (int strip = 0; strip < kPanel; strip += kStripRows) {
            const std::int64_t first = row_at(w, panel, strip);
            int count = 0;
            while (count < kStripRows && row_at(w, panel, strip + count) >= 0) ++count;
            const auto words = [&](int i, std::int64_t four) {
                const std::int64_t left = w.num_in - four * inputs;
                if (left <= 0) return padding;
                return words_of((first + i) * w.num_in + four * inputs, std::min(left, inputs));
            };
            StripRows{w.format, out, strip, count}.put(0, fours, words);
            StripRows{w.format, out, strip + count, kStripRows - count}.put(
                0, fours, [&](int, std::int64_t) { return padding; });
        }
    });
}

// The bytes of numbers that are stored as panels have them.
Words some_bytes(const void* from, std::int64_t count) {
    Words words{};
    if (count == sizeof words) return load_words(static_cast<const std::byte*>(from));
    std::memcpy(&words, from, static_cast<std::size_t>(count));
    return words;
}

}  // namespace

void pack_floats(const Weights& w, const void* source, Source type, std::byte* data) {
    const auto* bytes = static_cast<const std::byte*>(source);
    if (w.format == Format::fp32 && type == Source::fp32)
        return pack_words(w, data, 0, [&](std::int64_t first, std::int64_t count) {
            return some_bytes(bytes + 4 * first, 4 * count);
        });
    if (w.format == Format::bf16 && type == Source::bf16)
        return pack_words(w, data, 0, [&](std::int64_t first, std::int64_t count) {
            return some_bytes(bytes + 2 * first, 2 * count);
        });
    const bool wide = w.format == Format::fp32;
    pack_words(w, data, 0, [&](std::int64_t first, std::int64_t count) {
        Words words{};
        for (std::int64_t i = 0; i < count; ++i) {
            const float x = read_number(source, type, first + i);
            if (wide)
                words[i] = portable::float_to_bits(x);
            else
                words[i / 2] |= static_cast<Word>(portable::float_to_bf16(x)) << i % 2 * 16;
        }
        return words;
    });
}

void pack_codes(const Weights& w, const std::int8_t* codes, std::byte* data) {
    if (is_bytes(w.format))
        return pack_words(w, data, 0, [&](std::int64_t first, std::int64_t count) {
            return some_bytes(codes + first, count);
        });
    // Code 8 is zero.
    pack_words(w, data, 0x88888888u, [&](std::int64_t first, std::int64_t count) {
        std::uint64_t all[4];
        std::memset(all, 8, sizeof all);
        std::memcpy(all, codes + first, static_cast<std::size_t>(count));
        // Every other of the low nibbles of bytes, one behind the other in 16 bits.
        const auto gather = [](std::uint64_t x) {
            x &= 0x000f000f000f000fu;
            x = (x | x >> 12) & 0x000000ff000000ffu;
            return static_cast<Word>((x | x >> 24) & 0xffffu);
        };
        Words words;
        for (int i = 0; i < 4; ++i) words[i] = gather(all[i]) | gather(all[i] >> 8) << 16;
        return words;
    });
}

void unpack_codes(const Weights& w, std::int8_t* codes) {
    for_panels(w, [&](std::int64_t panel) {
        const std::byte* in = w.data + panel * w.bytes_per_panel();
        for (std::int64_t column = 0; column < kPanel; ++column) {
            const std::int64_t row = row_at(w, panel, column);
            if (row < 0) continue;
            for (std::int64_t k = 0; k < w.num_in; ++k) {
                std::int8_t& to = codes[row * w.num_in + k];
                if (is_bytes(w.format)) {
                    to = static_cast<std::int8_t>(in[k / 4 * kStepBytes + column / 4 * 16 +
                                                     column % 4 * 2 + k % 4 / 2 * 8 + k % 2]);
                } else {
                    const std::uint16_t word = reinterpret_cast<const std::uint16_t*>(
                        in)[k / 8 * (2 * kPanel) + 2 * column + k % 2];
                    to = static_cast<std::int8_t>(word >> (k % 8 / 2 * 4) & 15);
                }
            }
        }
    });
}

void pack_group_scales(const Weights& w, const std::uint16_t* scales, std::uint16_t* out) {
    const std::int64_t groups = w.num_groups();
    for_panels(w, [&](std::int64_t panel) {
        for (std::int64_t column = 0; column < kPanel; ++column) {
            const std::int64_t row = row_at(w, panel, column);
            for (std::int64_t g = 0; g < groups; ++g)
                out[(panel * groups + g) * kPanel + column] =
                    row < 0 ? std::uint16_t{0} : scales[row * groups + g];
        }
    });
}

void unpack_group_scales(const Weights& w, std::uint16_t* scales) {
    const std::int64_t groups = w.num_groups();
    for (std::int64_t row = 0; row < w.num_out; ++row)
        for (std::int64_t g = 0; g < groups; ++g) {
            const std::int64_t place = w.place(row);
            scales[row * groups + g] =
                w.group_scales[(place / kPanel * groups + g) * kPanel + place % kPanel];
        }
}

void pack_outputs(const Weights& w, const float* values, float* out) {
    std::fill_n(out, w.num_panels() * kPanel, 0.0f);
    for (std::int64_t row = 0; row < w.num_out; ++row) out[w.place(row)] = values[row];
}

void unpack(const Weights& w, float* out) {
    const Kernels* kernels = available_kernels().back();
    for_panels(w, [&](std::int64_t panel) {
        for (std::int64_t column = 0; column < kPanel; ++column) {
            const std::int64_t row = row_at(w, panel, column);
            if (row >= 0) kernels->unpack_row(w, row, out + row * w.num_in);
        }
    });
}

}  // namespace kept
