// Matrix products over bf16 and floats, and what becomes of them.
#include "held.h"

namespace kept {
namespace {

// Rows, inputs, outputs: tails of panels and of inputs, more rows than a turn, more than a slice.
constexpr std::int64_t kSizes[][3] = {{1, 1, 1},   {1, 33, 70},  {2, 64, 31},   {3, 97, 64},
                                      {5, 40, 33}, {13, 96, 48}, {7, 1100, 66}, {40, 65, 34}};

struct Linear {
    const Matrix& matrix;
    Rows& in;
    std::int64_t rows;
    Epilogue epilogue;
    Activation activation = Activation::none;
    const Rows* before = nullptr;  // what `add` adds to

    // Rows from `first` on; panels in two parts, as threads share them.
    Rows on(const Kernels& kernels, std::int64_t first, std::int64_t count) const {
        const Weights& w = matrix.weights;
        const bool acts = epilogue == Epilogue::activate || epilogue == Epilogue::gate;
        const std::int64_t width = epilogue == Epilogue::gate ? w.width() : w.num_out;
        Rows out(count, width, acts && w.format != Format::fp32);
        for (std::int64_t row = 0; before && row < count; ++row)
            for (std::int64_t i = 0; i < width; ++i) out.put(row, i, before->get(first + row, i));
        LinearArgs args{};
        args.weights = &w, args.in = in.from(first), args.rows = count;
        args.epilogue = epilogue, args.activation = activation;
        if (acts)
            args.act = out.from();
        else
            args.out = out.floats.data(), args.out_stride = out.stride;
        std::vector<float> scratch = zeros<float>(linear_scratch(w, count));
        const std::int64_t half = w.num_panels() / 2;
        kernels.linear(args, 0, half, scratch.data());
        kernels.linear(args, half, w.num_panels(), scratch.data());
        return out;
    }
};

// How far sums of a row may be apart: a chain of K roundings of each kind errs by sqrt(K) of them.
double bound_of(const Matrix& m, const Rows& in, std::int64_t row, std::int64_t output) {
    double sizes = 0;
    for (std::int64_t k = 0; k < m.weights.num_in; ++k)
        sizes += std::fabs(static_cast<double>(in.get(row, k)) *
                           m.numbers[static_cast<std::size_t>(output * m.weights.num_in + k)]);
    return 2 * kEps * (std::sqrt(static_cast<double>(m.weights.num_in)) * sizes + 8);
}

void hold(const Linear& linear, const Kernels& kernels, const Kernels& portable,
          const std::string& what) {
    const Rows found = linear.on(kernels, 0, linear.rows);
    const Rows expected = linear.on(portable, 0, linear.rows);
    const bool gates = linear.epilogue == Epilogue::gate;
    for (std::int64_t row = 0; row < linear.rows; ++row) {
        for (std::int64_t i = 0; i < found.width; ++i) {
            const double x = expected.get(row, i), size = std::fabs(x);
            double bound = bound_of(linear.matrix, linear.in, row, i) + 8 * kEps * size;
            // A gate is multiplied, and so are both errors; what is bf16 is rounded once more.
            if (gates)
                bound = 40 * (bound + bound_of(linear.matrix, linear.in, row, i + found.width));
            if (found.is_bf16) bound += size * 0x1p-7;
            require_near(found.get(row, i), x, bound, what + " of one set and of plain C++");
        }
    }
    for (const std::int64_t row : {std::int64_t{0}, linear.rows / 2, linear.rows - 1}) {
        const Rows alone = linear.on(kernels, row, 1);
        for (std::int64_t i = 0; i < found.width; ++i) {
            const float a = alone.get(0, i), b = found.get(row, i);
            require(std::memcmp(&a, &b, sizeof a) == 0, what + ": a row alone and among others");
        }
    }
}

// The head's: the largest logit, and the largest few.
void hold_logits(const Kernels& kernels, Random& random, Format format) {
    const std::int64_t rows = 3, outputs = 130, inputs = 64, k = 5;
    const Matrix matrix(random, format, outputs, inputs, false);
    Rows in(random, rows, inputs, format != Format::fp32);
    std::vector<float> out = zeros<float>(rows * outputs);
    std::vector<float> scratch = zeros<float>(linear_scratch(matrix.weights, rows));
    std::vector<Best> best(static_cast<std::size_t>(rows), {-INFINITY, 0});
    TopLogits top;
    top.begin(1, rows, k);
    LinearArgs args{};
    args.weights = &matrix.weights, args.in = in.from(), args.rows = rows;
    args.epilogue = Epilogue::logits, args.out = out.data(), args.out_stride = outputs;
    args.best = best.data(), args.top = top.rows_of(0), args.softcap = 30;
    kernels.linear(args, 0, matrix.weights.num_panels(), scratch.data());
    top.finish(out.data(), outputs);
    for (std::int64_t row = 0; row < rows; ++row) {
        std::vector<std::int64_t> order = zeros<std::int64_t>(outputs);
        for (std::int64_t i = 0; i < outputs; ++i) order[static_cast<std::size_t>(i)] = i;
        const float* logits = out.data() + row * outputs;
        std::stable_sort(order.begin(), order.end(),
                         [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
        for (std::int64_t i = 0; i < k; ++i)
            require(top.tokens()[static_cast<std::size_t>(row * k + i)] ==
                        order[static_cast<std::size_t>(i)],
                    "the largest few logits");
        require(std::fabs(logits[order[0]]) <= 30, "logits are capped");
    }
}

}  // namespace

void hold_linear(const Kernels& kernels, const Kernels& portable) {
    Random random(1);
    for (const Format format : {Format::fp32, Format::bf16, Format::int8, Format::int4,
                                Format::mxfp4, Format::q8_0, Format::q4_0}) {
        const std::string what = std::string("linear ") + name_of(format);
        for (const auto& [rows, inputs, outputs] : kSizes) {
            Rows in(random, rows, inputs, format != Format::fp32);
            const Matrix plain(random, format, outputs, inputs, false);
            const Rows before(random, rows, outputs, false);
            hold({plain, in, rows, Epilogue::store}, kernels, portable, what + " store");
            hold({plain, in, rows, Epilogue::add, Activation::none, &before}, kernels, portable,
                 what + " add");
            const Matrix gated(random, format, 2 * outputs, inputs, true);
            for (const Activation kind : {Activation::none, Activation::silu, Activation::gelu,
                                          Activation::gelu_tanh, Activation::relu}) {
                hold({plain, in, rows, Epilogue::activate, kind}, kernels, portable,
                     what + " activate");
                hold({gated, in, rows, Epilogue::gate, kind}, kernels, portable, what + " gate");
            }
            hold({gated, in, rows, Epilogue::gate, Activation::clamped_swiglu}, kernels, portable,
                 what + " clamped gate");
        }
        hold_logits(kernels, random, format);
    }
}

}  // namespace kept
