#include "quantize.h"

#include <vector>

#include "pool.h"

namespace kept {

std::int64_t quantize(const Kernels& kernels, const QuantizeArgs& args) {
    Pool::Turn turn(Pool::shared());
    const int threads = turn.num_threads();
    const std::int64_t padded = round_up(args.num_in, kGroup);
    struct Context {
        const Kernels& kernels;
        const QuantizeArgs& args;
        int threads;
        std::int64_t padded;
        std::vector<float> rows;
        std::vector<std::int64_t> wrong;
    } context{kernels,
              args,
              threads,
              padded,
              std::vector<float>(static_cast<std::size_t>(threads * padded)),
              std::vector<std::int64_t>(static_cast<std::size_t>(threads), -1)};
    turn.run(
        [](void* p, int thread) {
            Context& c = *static_cast<Context*>(p);
            const std::int64_t rows = c.args.num_rows;
            c.wrong[static_cast<std::size_t>(thread)] = c.kernels.quantize_rows(
                c.args, rows * thread / c.threads, rows * (thread + 1) / c.threads,
                c.rows.data() + thread * c.padded);
        },
        &context);
    for (const std::int64_t at : context.wrong)
        if (at >= 0) return at;
    return -1;
}

void encode_heads(const Kernels& kernels, const EncodeArgs& args, std::int64_t num_heads) {
    constexpr std::int64_t kAlone = 1 << 15;  // numbers that are not worth waking threads for
    if (num_heads * args.head_dim <= kAlone) return kernels.encode_heads(args, 0, num_heads);
    Pool::Turn turn(Pool::shared());
    struct Context {
        const Kernels& kernels;
        const EncodeArgs& args;
        std::int64_t num_heads;
        int threads;
    } context{kernels, args, num_heads, turn.num_threads()};
    turn.run_among_torch(
        [](void* p, int thread) {
            const Context& c = *static_cast<Context*>(p);
            c.kernels.encode_heads(c.args, c.num_heads * thread / c.threads,
                                   c.num_heads * (thread + 1) / c.threads);
        },
        &context);
}

}  // namespace kept
