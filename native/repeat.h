// Decoding: a step whose sequences take one new token each, run again and again.
#pragma once

#include <cstdint>
#include <vector>

#include "program.h"

namespace kept {

class Repeat {
  public:
    // last: the step to go on from, which need not have been run. Its sequences have one row each,
    // all of them wanted; its pointers outlive this, those to tokens, positions and rows of the
    // rotary tables are not read. positions: (B,) of its rows, and so of the tables. Throws
    // std::invalid_argument for any other.
    Repeat(Program& program, const Step& last, const std::vector<std::int64_t>& positions);
    Repeat(const Repeat&) = delete;
    Repeat& operator=(const Repeat&) = delete;

    // Appends a token to each sequence, (B,). Not to be used on after it throws what
    // `Program::run` throws, or std::invalid_argument for another number of tokens.
    void run(const std::vector<std::int64_t>& tokens);

    const std::vector<Best>& best() const { return program_.best(); }

  private:
    Program& program_;
    Step step_;
    std::vector<std::int64_t> tokens_, positions_;
};

}  // namespace kept
