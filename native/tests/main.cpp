// Prints this CPU's instruction sets, best first, and holds each of them to the portable kernels.
// With the argument "names" it only prints them.
#include "../dispatch.h"
#include "held.h"

namespace {

using kept::Kernels;

// Sets that differ in their instructions alone: what they compute is the same, bit for bit.
void hold_alike(const std::vector<const Kernels*>& sets) {
    const Kernels* neon = kept::find_kernels("neon");
    if (!neon) return;
    kept::Random random(6);
    for (const kept::Format format :
         {kept::Format::fp32, kept::Format::bf16, kept::Format::int8, kept::Format::int4,
          kept::Format::mxfp4, kept::Format::q8_0, kept::Format::q4_0}) {
        const std::int64_t rows = 5, inputs = 1100, outputs = 70;
        const kept::Matrix matrix(random, format, outputs, inputs, false);
        kept::Rows in(random, rows, inputs, format != kept::Format::fp32);
        const auto of = [&](const Kernels& set) {
            kept::Rows out(rows, outputs, false);
            kept::LinearArgs args{};
            args.weights = &matrix.weights, args.in = in.from(), args.rows = rows;
            args.epilogue = kept::Epilogue::store;
            args.out = out.floats.data(), args.out_stride = out.stride;
            auto scratch = kept::zeros<float>(kept::linear_scratch(matrix.weights, rows));
            set.linear(args, 0, matrix.weights.num_panels(), scratch.data());
            return out;
        };
        for (const Kernels* set : sets)
            if (std::string(set->name).starts_with("neon"))
                kept::require(kept::same_bits(of(*set), of(*neon)),
                              std::string(set->name) + " and neon, bit for bit");
    }
}

}  // namespace

int main(int count, char** arguments) {
    const std::vector<const Kernels*> sets = kept::available_kernels();
    for (const Kernels* set : sets) std::printf("%s%s", set == sets[0] ? "" : " ", set->name);
    std::printf("\n");
    if (count == 2 && std::strcmp(arguments[1], "names") == 0) return 0;
    const Kernels& portable = *sets.back();
    for (std::size_t i = 0; i + 1 < sets.size(); ++i) {
        const Kernels &set = *sets[i], &next = *sets[i + 1];
        // What it shares with the next set is held there.
        if (set.linear != next.linear) kept::hold_linear(set, portable);
        if (set.linear_codes != next.linear_codes) kept::hold_codes(set, portable);
        if (set.norm != next.norm) kept::hold_rows(set, portable);
        if (set.place != next.place) kept::hold_stored(set, portable);
        if (set.attend != next.attend) kept::hold_attention(set, portable);
        std::printf("%s: as the portable kernels\n", set.name);
    }
    hold_alike(sets);
    return 0;
}
