#include "suffix_automaton.h"

namespace kept {
namespace {

constexpr std::int32_t kNone = -1, kRoot = 0;
constexpr std::size_t kFirstTable = 64;
constexpr int kMostUpdated = 8;  // shorter matches whose latest place is noted with a longer one's

}  // namespace

SuffixAutomaton::SuffixAutomaton() : table_(kFirstTable, kNone) {
    add_state(0, 0);
}

void SuffixAutomaton::add(std::int32_t token) {
    const auto count = static_cast<std::int32_t>(text_.size()) + 1;
    text_.push_back(token);
    const std::int32_t added = add_state(states_[last_].length + 1, count);
    states_[added].link = kRoot;
    for (std::int32_t from = last_; from != kNone; from = states_[from].link) {
        const std::int32_t edge = find(from, token);
        if (edge != kNone) {
            states_[added].link = split(edges_[edge].to, from, token);
            break;
        }
        put(from, token, added);
    }
    last_ = added;
    std::int32_t found = states_[added].link;
    match_ = {states_[found].length, states_[found].end};
    for (int i = 0; i < kMostUpdated && found != kRoot; ++i, found = states_[found].link)
        states_[found].end = count;
}

// The state of what leads to `state` by way of `from` and the token, without what is longer.
std::int32_t SuffixAutomaton::split(std::int32_t state, std::int32_t from, std::int32_t token) {
    const std::int32_t length = states_[from].length + 1;
    if (states_[state].length == length) return state;
    const std::int32_t part = add_state(length, states_[state].end);
    states_[part].link = states_[state].link;
    for (std::int32_t edge = states_[state].edges; edge != kNone; edge = edges_[edge].next)
        put(part, edges_[edge].token, edges_[edge].to);
    states_[state].link = part;
    for (; from != kNone; from = states_[from].link) {
        const std::int32_t edge = find(from, token);
        if (edges_[edge].to != state) break;
        edges_[edge].to = part;
    }
    return part;
}

std::int64_t SuffixAutomaton::num_bytes() const {
    return static_cast<std::int64_t>(states_.capacity() * sizeof(State) +
                                     edges_.capacity() * sizeof(Edge) +
                                     (table_.capacity() + text_.capacity()) * sizeof(std::int32_t));
}

void SuffixAutomaton::follow(Cursor& cursor, std::int32_t token) const {
    settle(cursor);
    std::int32_t edge = find(cursor.state, token);
    while (edge == kNone && cursor.state != kRoot) {
        cursor.state = states_[cursor.state].link;
        cursor.length = states_[cursor.state].length;
        edge = find(cursor.state, token);
    }
    if (edge != kNone) {
        cursor.state = edges_[edge].to;
        ++cursor.length;
    }
}

Match SuffixAutomaton::match(Cursor& cursor) const {
    settle(cursor);
    return {cursor.length, states_[cursor.state].end};
}

// A state that was split since is left for the part that is no longer than what was found.
void SuffixAutomaton::settle(Cursor& cursor) const {
    while (cursor.state != kRoot && cursor.length <= states_[states_[cursor.state].link].length)
        cursor.state = states_[cursor.state].link;
}

std::int32_t SuffixAutomaton::add_state(std::int32_t length, std::int32_t end) {
    states_.push_back({kNone, length, end, kNone});
    return static_cast<std::int32_t>(states_.size()) - 1;
}

std::int32_t SuffixAutomaton::find(std::int32_t from, std::int32_t token) const {
    return table_[place(from, token)];
}

void SuffixAutomaton::put(std::int32_t from, std::int32_t token, std::int32_t to) {
    if (2 * edges_.size() >= table_.size()) grow();
    const auto edge = static_cast<std::int32_t>(edges_.size());
    table_[place(from, token)] = edge;
    edges_.push_back({from, token, to, states_[from].edges});
    states_[from].edges = edge;
}

// Where in the table the edge is, or would be.
std::size_t SuffixAutomaton::place(std::int32_t from, std::int32_t token) const {
    auto key = (static_cast<std::uint64_t>(static_cast<std::uint32_t>(from)) << 32) |
               static_cast<std::uint32_t>(token);
    key *= 0x9e3779b97f4a7c15u;  // Fibonacci hashing (Knuth)
    const std::size_t mask = table_.size() - 1;
    std::size_t at = static_cast<std::size_t>(key ^ (key >> 32)) & mask;
    for (; table_[at] != kNone; at = (at + 1) & mask)
        if (edges_[table_[at]].from == from && edges_[table_[at]].token == token) break;
    return at;
}

void SuffixAutomaton::grow() {
    table_.assign(2 * table_.size(), kNone);
    for (std::size_t i = 0; i < edges_.size(); ++i)
        table_[place(edges_[i].from, edges_[i].token)] = static_cast<std::int32_t>(i);
}

}  // namespace kept
