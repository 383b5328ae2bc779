// The same tiles in plain C++, so that whatever is built on them can be tested on any machine. What
// would fault ends the process with a message.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "simd.h"
#include "tiles.h"

namespace kept::KEPT_NS {

class EmulatedTiles {
  public:
    static void configure(const TileConfig& config) {
        require(config.palette == 1, "palette 1 is the only one emulated");
        require(config.start_row == 0, "a load or store cannot be resumed");
        for (const std::uint8_t x : config.reserved) require(x == 0, "reserved bytes are zero");
        for (int t = 0; t < 16; ++t) {
            const int rows = config.rows[t], bytes = config.row_bytes[t];
            require(rows <= (t < kNumTiles ? kTileRows : 0), "too many rows, or no such tile");
            require(bytes <= kTileRowBytes, "a row has at most 64 bytes");
            require((rows == 0) == (bytes == 0), "a tile has rows and columns, or neither");
        }
        state() = State{};
        state().config = config;
    }
    static void release() { state() = State{}; }
    static bool in_use() { return state().config.palette != 0; }

    static void zero(int t) { tile(t) = Tile{}; }

    static void load(int t, const void* from, std::int64_t stride) {
        Tile read{};
        for (int row = 0; row < rows(t); ++row)
            std::memcpy(read.bytes[row], static_cast<const std::byte*>(from) + row * stride,
                        static_cast<std::size_t>(row_bytes(t)));
        tile(t) = read;
    }

    static void store(int t, void* to, std::int64_t stride) {
        for (int row = 0; row < rows(t); ++row)
            std::memcpy(static_cast<std::byte*>(to) + row * stride, tile(t).bytes[row],
                        static_cast<std::size_t>(row_bytes(t)));
    }

    // As the SDM's page of TDPBF16PS has it: the products of a pair's first inputs and those of its
    // second are summed apart, and c gets the sum of both.
    static void dot(int c, int a, int b) {
        const int pairs = row_bytes(a) / 4, columns = row_bytes(c) / 4;
        require(c != a && c != b && a != b, "three different tiles");
        require(row_bytes(a) % 4 == 0 && row_bytes(c) % 4 == 0, "rows of whole pairs");
        require(rows(a) == rows(c), "a and c have the same rows");
        require(row_bytes(b) == row_bytes(c), "b and c have the same columns");
        require(rows(b) == pairs, "b has a row for each pair of a");
        const Tile &x = tile(a), &y = tile(b);
        for (int row = 0; row < rows(c); ++row) {
            float first[kTileRowBytes / 4] = {}, second[kTileRowBytes / 4] = {};
            for (int pair = 0; pair < pairs; ++pair)
                for (int column = 0; column < columns; ++column) {
                    const Pair p = pair_of(x, row, pair), q = pair_of(y, pair, column);
                    first[column] = flushed(std::fma(p.first, q.first, first[column]));
                    second[column] = flushed(std::fma(p.second, q.second, second[column]));
                }
            for (int column = 0; column < columns; ++column) {
                float sum;
                std::byte* at = tile(c).bytes[row] + 4 * column;
                std::memcpy(&sum, at, sizeof sum);
                sum = flushed(flushed(sum) + flushed(first[column] + second[column]));
                std::memcpy(at, &sum, sizeof sum);
            }
        }
    }

    template <int t>
    static void zero() {
        zero(t);
    }
    template <int t>
    static void load(const void* from, std::int64_t stride) {
        load(t, from, stride);
    }
    template <int t>
    static void load_passing(const void* from, std::int64_t stride) {
        load(t, from, stride);
    }
    template <int t>
    static void store(void* to, std::int64_t stride) {
        store(t, to, stride);
    }
    static void settle() {}
    template <int t>
    static void load_settled(const void* from, std::int64_t stride) {
        load(t, from, stride);
    }
    template <int t>
    static void load_settled_passing(const void* from, std::int64_t stride) {
        load(t, from, stride);
    }
    template <int t>
    static void store_rows(void* to) {
        store(t, to, kTileRowBytes);
    }
    template <int c, int a, int b>
    static void dot() {
        dot(c, a, b);
    }

  private:
    struct Tile {
        std::byte bytes[kTileRows][kTileRowBytes];
    };
    struct State {
        TileConfig config{0};
        Tile tiles[kNumTiles] = {};
    };
    struct Pair {
        float first, second;
    };

    static State& state() {
        static thread_local State state;
        return state;
    }

    static void require(bool holds, const char* rule) {
        if (holds) return;
        std::fprintf(stderr, "kept: fault of an emulated tile: %s\n", rule);
        std::abort();
    }

    static Tile& tile(int t) {
        require(in_use(), "tiles are configured before they are used");
        require(t >= 0 && t < kNumTiles && state().config.rows[t] > 0, "this tile has no rows");
        return state().tiles[t];
    }
    static int rows(int t) {
        tile(t);
        return state().config.rows[t];
    }
    static int row_bytes(int t) {
        tile(t);
        return state().config.row_bytes[t];
    }

    // Numbers too small for full precision count as zero, and so do such results.
    static float flushed(float x) {
        return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
    }
    static Pair pair_of(const Tile& from, int row, int index) {
        std::uint16_t halves[2];
        std::memcpy(halves, from.bytes[row] + 4 * index, sizeof halves);
        return {flushed(bf16_to_float(halves[0])), flushed(bf16_to_float(halves[1]))};
    }
};

}  // namespace kept::KEPT_NS
