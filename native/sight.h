// Which tokens of a tile may be seen: by causality, by a window and by sinks.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace kept::KEPT_NS {

// A bit for each token of a tile, the first being the lowest.
using TokenSet = std::uint64_t;
static_assert(kTile == 64);

inline bool holds(TokenSet set, std::int64_t t) {
    return set >> t & 1;
}

// Those of a tile's tokens, the first of which is `token`, that come before token `end`.
inline TokenSet tokens_below(std::int64_t token, std::int64_t end) {
    const std::int64_t count = end - token;
    return count <= 0 ? 0 : count >= kTile ? ~TokenSet{0} : (TokenSet{1} << count) - 1;
}

// Which tokens of a tile queries may see.
struct Sight {
    bool causal;
    std::int64_t window[2], sinks[2];

    Sight(const AttentionShape& shape, const LayoutArgs& layout)
        : causal(shape.causal),
          window{shape.causal ? shape.window : -1, shape.causal ? layout.window : -1},
          sinks{shape.sinks, layout.sinks} {}

    // Whether no query from `query` on sees any of tokens [token, token + count).
    bool skips(std::int64_t token, std::int64_t count, std::int64_t query) const {
        for (int i = 0; i < 2; ++i)
            if (window[i] >= 0 && token + count <= query - window[i] + 1 && token >= sinks[i])
                return true;
        return false;
    }
    // What of a tile that begins with `token`, and a sequence of `length`, the query sees.
    TokenSet by(std::int64_t query, std::int64_t token, std::int64_t length) const {
        const TokenSet known = tokens_below(token, causal ? query + 1 : length);
        return known & near(query, token);
    }

  private:
    TokenSet near(std::int64_t query, std::int64_t token) const {
        TokenSet found = ~TokenSet{0};
        for (int i = 0; i < 2; ++i)
            if (window[i] >= 0)
                found &=
                    ~tokens_below(token, query - window[i] + 1) | tokens_below(token, sinks[i]);
        return found;
    }
};

}  // namespace kept::KEPT_NS
