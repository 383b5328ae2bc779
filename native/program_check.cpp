// What a step must be before any thread works on it: every place that a kernel reads or writes by
// an index of the step's lies within what was handed over.
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "must.h"
#include "program.h"

namespace kept {
namespace {

void within(const char* what, const std::int64_t* ids, std::int64_t count, std::int64_t limit) {
    for (std::int64_t i = 0; i < count; ++i)
        if (ids[i] < 0 || ids[i] >= limit)
            throw std::out_of_range(std::string(what) + " " + std::to_string(ids[i]) +
                                    " does not exist: there are " + std::to_string(limit) +
                                    ", from 0 on");
}

void check_sequences(const Step& step) {
    must(step.rows > 0 && step.starts.size() > 1, "a step has at least one row of one sequence");
    must(step.starts.front() == 0 && step.starts.back() == step.rows,
         "starts of a step do not fit its rows");
    const auto count = static_cast<std::size_t>(step.num_sequences());
    must(step.lengths.size() == step.layouts.size() && step.tables.size() == step.layouts.size(),
         "a step has lengths and tables for each of its layouts");
    for (std::size_t l = 0; l < step.layouts.size(); ++l) {
        const LayoutArgs& layout = step.layouts[l];
        const auto& lengths = step.lengths[l];
        const std::int64_t columns = step.tables[l].columns;
        must(lengths.size() == count, "a layout has a length for each sequence");
        if (static_cast<std::int64_t>(l) >= step.inputs.first_layout) continue;
        must(columns == 1 || (columns > 1 && layout.block % kTile == 0),
             "several blocks of a sequence are whole tiles each");
        for (std::size_t s = 0; s < count; ++s) {
            const std::int64_t new_tokens = step.starts[s + 1] - step.starts[s];
            must(new_tokens > 0 && new_tokens <= lengths[s],
                 "every sequence of a step has new tokens, and no more of them than it is long");
            must(lengths[s] <= columns * layout.block,
                 "a sequence is longer than its layout has room for");
        }
    }
}

// What sequences attend of encoder inputs: layouts and layers were made for it as StepInputs says.
void check_inputs(const Step& step) {
    const StepInputs& inputs = step.inputs;
    must(static_cast<std::int64_t>(inputs.of.size()) ==
             (inputs.count() > 0 ? step.num_sequences() : 0),
         "each sequence of a step attends one of its inputs");
    for (const std::int64_t input : inputs.of)
        must(input >= 0 && input < inputs.count(), "a sequence attends an input there is not");
    for (const std::int64_t length : inputs.lengths)
        must(length > 0, "an encoder input has at least one token");
}

// Whether the rows of each sequence are those of an input of its own.
bool brings_inputs(const Step& step) {
    std::vector<bool> seen(static_cast<std::size_t>(step.inputs.count()));
    for (std::size_t s = 0; s < step.inputs.of.size(); ++s) {
        const auto input = static_cast<std::size_t>(step.inputs.of[s]);
        if (seen[input] || step.starts[s + 1] - step.starts[s] != step.inputs.lengths[input])
            return false;
        seen[input] = true;
    }
    return true;
}

// width: numbers of a stored row.
void check_side(const LayerSide& side, std::int64_t kv_heads, std::int64_t width,
                const LayoutArgs& layout, std::int64_t blocks, std::int64_t entries) {
    const Stored& stored = side.stored;
    const Room& room = side.room;
    const bool coded = stored.codec == Codec::int8 || stored.codec == Codec::int4;
    const bool whole =
        stored.codec == Codec::fp32 || stored.codec == Codec::bf16 || stored.codec == Codec::fp16;
    const std::int64_t codes = whole ? width : code_bytes(stored.codec, width);
    must(room.heads == kv_heads && room.width == codes &&
             (!coded || room.scales == num_scales(stored.codec, width)),
         "a layer's buffers are of other heads than the program's");
    must(blocks <= room.slots, "a sequence's slot lies behind the last of its layer's buffers");
    must(entries <= room.entries && (room.capacity < 0 || room.capacity == layout.block),
         "a layer's buffers have another capacity than its layout");
}

// How many blocks there must be for those that sequences of these lengths lie in.
std::int64_t num_blocks(const StepTable& table, const LayoutArgs& layout,
                        const std::vector<std::int64_t>& lengths) {
    std::int64_t found = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
        const std::int32_t* blocks = table.view().of(static_cast<std::int64_t>(s));
        const std::int64_t used =
            table.columns == 1 ? 1 : (lengths[s] + layout.block - 1) / layout.block;
        const auto [lowest, highest] = std::minmax_element(blocks, blocks + used);
        must(*lowest >= 0, "a slot is below zero");
        found = std::max<std::int64_t>(found, *highest + 1);
    }
    return found;
}

// A layer that an operation stores to or reads. No heads: it does neither.
void check_layer(const Step& step, std::int64_t index, const AttentionShape& shape) {
    const LayerStores& layer = step.layers[static_cast<std::size_t>(index)];
    must(layer.layout >= 0 && layer.layout < static_cast<std::int64_t>(step.layouts.size()),
         "a layer follows a layout that the step does not have");
    if (shape.kv_heads == 0) return;
    const LayoutArgs& layout = step.layouts[static_cast<std::size_t>(layer.layout)];
    const auto& lengths = step.lengths[static_cast<std::size_t>(layer.layout)];
    const StepTable& table = step.tables[static_cast<std::size_t>(layer.layout)];
    const std::int64_t longest = std::ranges::max(lengths);
    const std::int64_t entries = table.columns > 1 ? layout.block : longest;
    const std::int64_t blocks = num_blocks(table, layout, lengths);
    check_side(layer.keys, shape.kv_heads, shape.head_dim, layout, blocks, entries);
    check_side(layer.values, shape.kv_heads, shape.value_row(), layout, blocks, entries);
    must(!shape.in_keys || layer.values.stored.codes == layer.keys.stored.codes,
         "values that lie in keys are read from them");
}

// The layer of an operation, or those of all inputs.
void check_layers(const Step& step, std::int64_t layer, bool crossing,
                  const AttentionShape& shape) {
    const StepInputs& inputs = step.inputs;
    must(layer >= 0 && layer < (crossing ? inputs.layers : inputs.first_layer),
         "the step has buffers for fewer layers than the program");
    if (!crossing) return check_layer(step, layer, shape);
    must(inputs.count() > 0, "the step has no encoder inputs");
    for (std::int64_t i = 0; i < inputs.count(); ++i)
        check_layer(step, inputs.first_layer + i * inputs.layers + layer, shape);
}

}  // namespace

void Program::check(const Step& step, std::int64_t first, std::int64_t last) const {
    check_sequences(step);
    check_inputs(step);
    check_adapted(step);
    std::int64_t rope_rows = -1;  // of the tables whose rows have been checked
    const auto check_tables = [&](const RotaryColumns& rotary) {
        if (rotary.dim == 0) return;
        must(step.cos && step.sin && step.rope_rows, "the step has no rotary tables");
        if (rope_rows == step.rope_count / rotary.stride) return;
        rope_rows = step.rope_count / rotary.stride;
        within("row of the rotary tables", step.rope_rows, step.rows, rope_rows);
    };
    for (std::int64_t i = first; i < last; ++i) {
        const Op& op = this->op(i);
        if (const Embed* e = std::get_if<Embed>(&op)) {
            must(step.tokens != nullptr, "the step has no tokens");
            within("token", step.tokens, step.rows,
                   e->others_first ? std::numeric_limits<std::int64_t>::max()
                                   : weights(e->table).num_out);
            must(!e->position_table || step.positions, "the step has no positions");
            if (e->position_table) within("position", step.positions, step.rows, e->num_positions);
        } else if (const Place* p = std::get_if<Place>(&op)) {
            check_layers(step, p->layer, p->crossing, p->shape);
            must(!p->crossing || p->shape.kv_heads == 0 || brings_inputs(step),
                 "the rows of a step are not those of its inputs");
            check_tables(p->rotary);
        } else if (const PlaceLatent* latent = std::get_if<PlaceLatent>(&op)) {
            check_layers(step, latent->layer, false, latent->shape);
            check_tables(latent->rotary);
        } else if (const Attend* a = std::get_if<Attend>(&op)) {
            check_layers(step, a->layer, a->crossing, a->shape);
        } else if (const Linear* l = std::get_if<Linear>(&op)) {
            must(l->epilogue != Epilogue::logits || step.num_wanted == 0 ||
                     (step.logits && step.vocabulary == weights(l->weights).num_out),
                 "the room for logits is not as wide as the vocabulary");
        }
    }
    must(step.wanted || step.num_wanted <= step.rows, "more rows are wanted than there are");
    must(step.top_k >= 0 && step.top_k <= step.vocabulary,
         "a step asks for no more of the largest logits than there are");
    if (step.wanted) within("wanted row", step.wanted, step.num_wanted, step.rows);
}

namespace {

void check_heads(const AttentionShape& s) {
    const auto fits = [](std::int64_t dim) { return dim >= 1 && dim <= kMaxHeadDim; };
    must(fits(s.head_dim) && fits(s.value_dim), "heads are too wide for the kernels");
    must(!s.in_keys || s.value_dim <= s.head_dim,
         "values that lie in keys are no longer than these");
}

void must_hold_numbers(const RowBuffer& rows) {
    must(!rows.holds_codes(), "only a matrix reads codes, and only quantizing writes them");
}

}  // namespace

const RowBuffer& Program::known(int name) const {
    must(name >= 0 && name < static_cast<int>(buffers_.size()), "there is no such buffer");
    return buffer(name);
}

void Program::check_op(const Embed& op) const {
    must_hold_numbers(known(op.out));
    must(weights_.at(static_cast<std::size_t>(op.table)).num_in <= known(op.out).width(),
         "a table's rows outgrow their buffer");
}

void Program::check_op(const Norm& op) const {
    must_hold_numbers(known(op.x));
    must_hold_numbers(known(op.out));
    must(known(op.x).width() == known(op.out).width(), "a norm changes the width of its rows");
    must(op.begin >= 0 && op.width >= 1 && op.begin + op.width <= known(op.x).width(),
         "a norm reads beyond its rows");
}

void Program::check_op(const Round& op) const {
    must_hold_numbers(known(op.x));
    must_hold_numbers(known(op.out));
    must(known(op.x).width() == known(op.out).width(), "rounding changes no width");
    if (op.by < 0) return;
    must_hold_numbers(known(op.by));
    must(op.begin >= 0 && op.begin + known(op.x).width() <= known(op.by).width(),
         "rows are multiplied by columns that there are not");
}

void Program::check_op(const Quantize& op) const {
    must(!known(op.x).holds_codes() && known(op.out).holds_codes(), "floats become codes");
    must(known(op.x).width() == known(op.out).width() &&
             known(op.x).per_row() == known(op.out).per_row(),
         "codes are as many as their numbers");
}

void Program::check_op(const Linear& op) const {
    check_product(known(op.in), weights_.at(static_cast<std::size_t>(op.weights)), op.epilogue,
                  known(op.out));
    check_adapters(op);
}

void Program::check_product(const RowBuffer& in, const Weights& w, Epilogue epilogue,
                            const RowBuffer& out) const {
    must_hold_numbers(out);
    must(w.padded_in() <= in.stride(), "a matrix reads beyond the rows of its input");
    const CodeRows codes = in.codes();
    must(!in.holds_codes() || (codes.width == w.padded_in() && is_whole(w.format) &&
                               is_nibbles(w.format) == codes.for_int4),
         "codes are of another width or order than a matrix reads");
    must(epilogue == Epilogue::logits ||
             (epilogue == Epilogue::gate ? w.width() : w.num_out) <= out.stride(),
         "a matrix writes beyond the rows of its output");
}

void Program::check_op(const Place& op) const {
    must_hold_numbers(known(op.qkv));
    must_hold_numbers(known(op.queries));
    const AttentionShape& s = op.shape;
    check_heads(s);
    must(s.value_dim == s.head_dim && !s.in_keys, "keys and values are projected to one size");
    must((s.heads + 2 * s.kv_heads) * s.head_dim <= known(op.qkv).width() &&
             s.heads * round_up(s.head_dim, 32) <= known(op.queries).stride(),
         "heads outgrow the rows that they are taken from or put into");
    check_rotary(op.rotary, s.head_dim);
}

void Program::check_rotary(const RotaryColumns& r, std::int64_t width) {
    must(r.dim >= 0 && r.dim <= width && r.begin >= 0 &&
             (r.dim == 0 || r.begin + r.dim / 2 <= r.stride),
         "a layer's columns lie outside of the rotary tables");
    must(r.dim == 0 || r.stride > 0, "the rotary tables have no columns");
}

void Program::check_op(const Attend& op) const {
    must_hold_numbers(known(op.queries));
    must_hold_numbers(known(op.out));
    const AttentionShape& s = op.shape;
    check_heads(s);
    must(s.heads >= 1 && s.kv_heads >= 1 && s.heads % s.kv_heads == 0,
         "the heads of queries are no multiple of those of keys");
    must(s.heads * round_up(s.head_dim, 32) <= known(op.queries).stride() &&
             s.heads * s.value_dim <= known(op.out).stride(),
         "heads outgrow the rows that they are taken from or put into");
}

}  // namespace kept
