// What comes next in a text, by what came behind the same tokens before.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "suffix_automaton.h"

namespace kept {

// How often the token behind a match was the one that came, by the match's length, late ones
// weighing most.
class HitRates {
  public:
    HitRates();
    double chance(std::int32_t length) const;
    void note(std::int32_t length, bool hit);

  private:
    static constexpr int kLengths = 6;  // 1, 2 or 3, 4 to 7, ..., 32 and more
    static int of(std::int32_t length);
    std::array<double, kLengths> hits_, tries_;
};

struct Draft {
    std::vector<std::int32_t> tokens;
    std::vector<double> chances;  // of each, that it comes and all before it
};

// A text, and others that ended before it, which grow meanwhile.
class Repeats {
  public:
    explicit Repeats(std::shared_ptr<SuffixAutomaton> others) : others_(std::move(others)) {}

    // Tokens that were not drawn: they teach nothing of how likely the next is to repeat.
    void read(const std::int64_t* tokens, std::int64_t count);
    // A token that was drawn; returns the chance of the one that would be drafted behind it.
    double draw(std::int64_t token);
    double chance();
    // At most so many tokens, until they are less likely than `least`.
    Draft draft(std::int64_t most, double least);

    std::int64_t num_tokens() const { return static_cast<std::int64_t>(own_.text().size()); }
    std::int64_t num_bytes() const { return own_.num_bytes(); }
    Match match() const { return own_.match(); }
    Match match_of_others() { return others_->match(cursor_); }

  private:
    double chance_of_others();

    SuffixAutomaton own_;
    std::shared_ptr<SuffixAutomaton> others_;
    SuffixAutomaton::Cursor cursor_;
    HitRates own_rates_, other_rates_;
};

}  // namespace kept
