#include "repeat.h"

#include <algorithm>
#include <stdexcept>

namespace kept {

Repeat::Repeat(Program& program, const Step& last, const std::vector<std::int64_t>& positions)
    : program_(program), step_(last), tokens_(positions.size()), positions_(positions) {
    if (last.rows != last.num_sequences() || last.wanted || last.num_wanted != last.rows)
        throw std::invalid_argument(
            "only a step with one row a sequence, all of them wanted, can be repeated");
    if (static_cast<std::int64_t>(positions.size()) != last.rows)
        throw std::invalid_argument("a repeated step has a position for each sequence");
    step_.tokens = tokens_.data();
    step_.positions = step_.rope_rows = positions_.data();
}

void Repeat::run(const std::vector<std::int64_t>& tokens) {
    if (tokens.size() != tokens_.size())
        throw std::invalid_argument("a repeated step takes one token a sequence");
    std::copy(tokens.begin(), tokens.end(), tokens_.begin());
    for (auto& position : positions_) ++position;
    // Encoder inputs, whose layouts stand behind the others, stay as long as they are.
    const std::size_t growing = step_.inputs.count() > 0
                                    ? static_cast<std::size_t>(step_.inputs.first_layout)
                                    : step_.lengths.size();
    for (std::size_t layout = 0; layout < growing; ++layout)
        for (auto& length : step_.lengths[layout]) ++length;
    program_.run(step_, 0, program_.num_ops());
}

}  // namespace kept
