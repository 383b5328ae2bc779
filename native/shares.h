// Units of an operation, shared among the threads of a run.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace kept {

// Every thread has a share of its own, in one piece, and takes it in parts from its front. Whoever
// is done takes from the end of another's: cores are not equally fast, be it that some are built
// that way or that others use them, and who waits could help. Parts become smaller as the end
// comes nearer.
class Shares {
  public:
    // For a run by so many threads, while none of them is in it.
    void begin(int threads);

    // Calls f(first, last) for the parts of an operation's `count` units that a thread does, until
    // none is left. A part is not less than `least`, unless a share has no more. All threads of a
    // run come here for the same operations, with a barrier after each.
    template <class F>
    void each(int thread, std::int64_t count, std::int64_t least, const F& f) {
        enter(thread);
        while (true) {
            const auto [first, last] = take(thread, count, least);
            if (first == last) return;
            f(first, last);
        }
    }

  private:
    void enter(int thread);
    // The units that a thread does next; none are left if there are none.
    std::pair<std::int64_t, std::int64_t> take(int thread, std::int64_t count, std::int64_t least);

    // How many units of a thread's share are taken from its front and from its end: 32 bits each.
    // One operation's are made zero while the next one's are counted, when nobody looks at them.
    struct alignas(64) Taken {
        std::atomic<std::uint64_t> counts[2]{};
        int now = 0;
    };

    std::vector<Taken> taken_;
};

}  // namespace kept
