// One step of a program, as plain data.
#pragma once

#include <vector>

#include "kernels.h"

namespace kept {

// How large a layer's buffers are: (slots, G, entries, width) of codes; capacity: entries from one
// head to the next, -1 where there is but one; scales: width of theirs.
struct Room {
    std::int64_t slots = 0, heads = 0, entries = 0, width = 0, capacity = -1;
    std::int64_t scales = 0;
};

// Keys or values, and the room they have.
struct LayerSide {
    Stored stored;
    Room room;
};

// Where a layer keeps its keys and values, and in which of the step's layouts.
struct LayerStores {
    LayerSide keys, values;
    std::int64_t layout;
};

// The blocks of each sequence in one layout, (sequences, columns).
struct StepTable {
    std::vector<std::int32_t> blocks;
    std::int64_t columns = 0;

    BlockTables view() const { return {blocks.data(), columns}; }
};

// Encoder inputs that the sequences of a step attend. Each has a layout and layers of its own,
// which stand behind the step's others, input by input.
struct StepInputs {
    std::vector<std::int64_t> of;       // which input each sequence attends
    std::vector<std::int64_t> lengths;  // tokens of each
    std::int64_t layers = 0;            // of each
    std::int64_t first_layer = 0, first_layout = 0;

    std::int64_t count() const { return static_cast<std::int64_t>(lengths.size()); }
};

// All pointers are the caller's and outlive the run.
struct Step {
    std::int64_t rows = 0;
    const std::int64_t *tokens = nullptr, *positions = nullptr;
    std::vector<std::int64_t> starts;
    // For each layout, of each sequence, the new tokens included. A layout that drops tokens from
    // its middle counts the entries that it has. Of an input: 0 where a sequence attends another.
    std::vector<std::vector<std::int64_t>> lengths;
    const std::int64_t* wanted = nullptr;  // rows whose logits are wanted, or null: all
    std::int64_t num_wanted = 0;
    const float *cos = nullptr, *sin = nullptr;
    std::int64_t rope_count = 0;  // numbers of cos, and of sin
    const std::int64_t* rope_rows = nullptr;
    std::vector<LayoutArgs> layouts;
    std::vector<StepTable> tables;  // of each layout
    std::vector<LayerStores> layers;
    StepInputs inputs;
    std::vector<std::int64_t> adapters;  // of each sequence, -1: none; or nothing at all
    float* logits = nullptr;
    std::int64_t vocabulary = 0;
    std::int64_t top_k = 0;  // of each wanted row so many of the largest logits are found

    std::int64_t num_sequences() const { return static_cast<std::int64_t>(starts.size()) - 1; }
};

}  // namespace kept
