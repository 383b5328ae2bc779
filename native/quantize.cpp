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

}  // namespace kept
