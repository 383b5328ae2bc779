#include "repeats.h"

#include <algorithm>
#include <bit>

namespace kept {
namespace {

constexpr double kPrior[] = {0.05, 0.2, 0.5, 0.7, 0.85, 0.9};
constexpr double kWeight = 4;          // observations that these count as
constexpr double kKeeps = 15.0 / 16;   // what one leaves of the weight of those before it
constexpr std::int64_t kContext = 64;  // last tokens of a prompt that others are looked through for

}  // namespace

HitRates::HitRates() {
    for (int i = 0; i < kLengths; ++i) {
        hits_[i] = kPrior[i] * kWeight;
        tries_[i] = kWeight;
    }
}

int HitRates::of(std::int32_t length) {
    return std::min(static_cast<int>(std::bit_width(static_cast<std::uint32_t>(length))) - 1,
                    kLengths - 1);
}

double HitRates::chance(std::int32_t length) const {
    return hits_[of(length)] / tries_[of(length)];
}

void HitRates::note(std::int32_t length, bool hit) {
    const int i = of(length);
    hits_[i] = kKeeps * hits_[i] + (hit ? 1 : 0);
    tries_[i] = kKeeps * tries_[i] + 1;
}

void Repeats::read(const std::int64_t* tokens, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) own_.add(static_cast<std::int32_t>(tokens[i]));
    for (std::int64_t i = std::max<std::int64_t>(0, count - kContext); i < count; ++i)
        others_->follow(cursor_, static_cast<std::int32_t>(tokens[i]));
}

double Repeats::draw(std::int64_t token) {
    const auto drawn = static_cast<std::int32_t>(token);
    const Match own = own_.match();
    if (own.length > 0) own_rates_.note(own.length, own_.text()[own.next] == drawn);
    const std::vector<std::int32_t>& others = others_->text();
    if (!others.empty()) {
        const Match other = others_->match(cursor_);
        if (other.length > 0 && other.next < static_cast<std::int32_t>(others.size()))
            other_rates_.note(other.length, others[other.next] == drawn);
        others_->follow(cursor_, drawn);
    }
    own_.add(drawn);
    return chance();
}

double Repeats::chance() {
    const Match own = own_.match();
    const double found = own.length > 0 ? own_rates_.chance(own.length) : 0;
    return others_->text().empty() ? found : std::max(found, chance_of_others());
}

double Repeats::chance_of_others() {
    const Match other = others_->match(cursor_);
    const std::vector<std::int32_t>& others = others_->text();
    const bool goes_on = other.length > 0 &&
                         other.next < static_cast<std::int32_t>(others.size()) &&
                         others[other.next] >= 0;
    return goes_on ? other_rates_.chance(other.length) : 0;
}

Draft Repeats::draft(std::int64_t most, double least) {
    const Match own = own_.match();
    const double of_others = chance_of_others();
    const bool is_own = own.length > 0 && own_rates_.chance(own.length) >= of_others;
    if (!is_own && of_others == 0) return {};
    const Match match = is_own ? own : others_->match(cursor_);
    const std::vector<std::int32_t>& text = is_own ? own_.text() : others_->text();
    const HitRates& rates = is_own ? own_rates_ : other_rates_;
    const auto size = static_cast<std::int64_t>(text.size());
    Draft found;
    double chance = 1;
    for (std::int64_t i = 0; i < most; ++i) {
        const std::int64_t at = match.next + i;
        if (at >= size && !is_own) break;
        // A text that goes on as it has just repeated itself.
        const std::int32_t token = at < size ? text[at] : found.tokens[at - size];
        chance *= rates.chance(match.length + static_cast<std::int32_t>(i));
        if (token < 0 || chance < least) break;
        found.tokens.push_back(token);
        found.chances.push_back(chance);
    }
    return found;
}

}  // namespace kept
