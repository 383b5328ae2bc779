// Activations of int8: codes, scales and products are the same bits on every instruction set.
#include "held.h"

namespace kept {
namespace {

struct Coded {
    CodeRows rows;
    std::vector<std::byte> data;

    Coded(const Kernels& kernels, const Rows& x, std::int64_t count, bool for_int4) {
        rows.width = x.stride, rows.for_int4 = for_int4;
        data = zeros<std::byte>(count * rows.stride());
        rows.data = data.data();
        kernels.encode_rows({x.floats.data(), x.stride, rows}, 0, count);
    }
    CodeRows from(std::int64_t row) const {
        CodeRows found = rows;
        found.data += row * rows.stride();
        return found;
    }
};

std::vector<float> products(const Kernels& kernels, const Matrix& matrix, CodeRows codes,
                            std::int64_t count) {
    const Weights& w = matrix.weights;
    std::vector<float> out = zeros<float>(count * w.num_panels() * kPanel);
    std::vector<float> scratch = zeros<float>(linear_scratch(w, count));
    LinearArgs args{};
    args.weights = &w, args.codes = codes, args.rows = count;
    args.epilogue = Epilogue::store, args.out = out.data();
    args.out_stride = w.num_panels() * kPanel;
    const std::int64_t half = w.num_panels() / 2;
    kernels.linear_codes(args, 0, half, scratch.data());
    kernels.linear_codes(args, half, w.num_panels(), scratch.data());
    return out;
}

}  // namespace

void hold_codes(const Kernels& kernels, const Kernels& portable) {
    constexpr std::int64_t kSizes[][3] = {{1, 1, 1},    {1, 600, 70},  {2, 33, 31},
                                          {3, 97, 64},  {4, 1100, 40}, {5, 64, 33},
                                          {6, 512, 34}, {13, 544, 48}, {17, 96, 1}};
    Random random(2);
    for (const Format format : {Format::int8, Format::int4, Format::q8_0, Format::q4_0})
        for (const auto& [rows, inputs, outputs] : kSizes) {
            const std::string what = std::string("codes ") + name_of(format);
            Rows x(random, rows, inputs, false);
            for (float& number : x.floats) number = std::ldexp(number, random.below(12) - 6);
            for (std::int64_t i = 0; i < inputs && rows > 2; ++i) x.put(rows - 1, i, 0);
            const Coded codes(kernels, x, rows, is_nibbles(format));
            require(same_bits(codes.data, Coded(portable, x, rows, is_nibbles(format)).data),
                    what + " of rows");
            const Matrix matrix(random, format, outputs, inputs, false);
            const auto found = products(kernels, matrix, codes.from(0), rows);
            require(same_bits(found, products(portable, matrix, codes.from(0), rows)),
                    what + " in products");
            for (std::int64_t row = 0; row < rows; ++row) {
                const auto alone = products(kernels, matrix, codes.from(row), 1);
                require(std::equal(alone.begin(), alone.end(),
                                   found.begin() + row * static_cast<std::int64_t>(alone.size())),
                        what + ": a row alone and among others");
            }
        }
}

}  // namespace kept
