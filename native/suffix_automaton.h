// What of a growing text of tokens was there before.
#pragma once

#include <cstdint>
#include <vector>

namespace kept {

// Some last tokens of a text, which an automaton holds too: how many they are, and the number of
// the token that came behind them there. Of length 0: there are none.
struct Match {
    std::int32_t length = 0, next = 0;
};

// The suffix automaton of a text (Blumer et al., "The smallest automaton recognizing the subwords
// of a text", 1985): a state for each set of places that some of its substrings end at. A token
// more costs O(1), amortised. Tokens are at least 0; -1 parts one text from the next.
class SuffixAutomaton {
  public:
    SuffixAutomaton();

    void add(std::int32_t token);
    const std::vector<std::int32_t>& text() const { return text_; }
    // The longest last tokens that also end earlier, at the latest such place but where those were
    // found as part of longer ones since.
    Match match() const { return match_; }
    std::int64_t num_bytes() const;

    // The longest last tokens of another text that are in this one. Stays right while this grows.
    struct Cursor {
        std::int32_t state = 0, length = 0;
    };
    void follow(Cursor& cursor, std::int32_t token) const;
    Match match(Cursor& cursor) const;

  private:
    struct State {
        std::int32_t link, length, end, edges;
    };
    struct Edge {
        std::int32_t from, token, to, next;
    };

    std::int32_t add_state(std::int32_t length, std::int32_t end);
    std::int32_t split(std::int32_t state, std::int32_t from, std::int32_t token);
    std::int32_t find(std::int32_t from, std::int32_t token) const;  // an edge, -1: none
    void put(std::int32_t from, std::int32_t token, std::int32_t to);
    std::size_t place(std::int32_t from, std::int32_t token) const;
    void grow();
    void settle(Cursor& cursor) const;

    std::vector<State> states_;
    std::vector<Edge> edges_;
    std::vector<std::int32_t> table_;  // edges by state and token, -1: free
    std::vector<std::int32_t> text_;
    std::int32_t last_ = 0;
    Match match_;
};

}  // namespace kept
