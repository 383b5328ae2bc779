#include "cpu_features.h"

#include <cstdint>
#include <thread>

#include "prefetch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#endif
#if defined(__APPLE__) && defined(__aarch64__)
#include <sys/sysctl.h>
#endif

namespace kept {
namespace {

#if defined(__x86_64__)

struct Cpuid {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Cpuid cpuid(unsigned leaf, unsigned subleaf) {
    Cpuid r;
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

constexpr bool bit(unsigned word, int index) {
    return (word >> index) & 1u;
}

// XCR0: the register states that the operating system saves at a context switch.
std::uint64_t enabled_states() {
    unsigned low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
}

// Linux keeps the 8 KiB of tile data off until a process asks for it.
bool request_tile_permission() {
#if defined(__linux__)
    constexpr long kArchReqXcompPerm = 0x1023;
    constexpr long kTileData = 18;
    return syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
#else
    return true;
#endif
}

CpuFeatures detect() {
    constexpr std::uint64_t kYmm = 0x6;          // SSE and upper halves of YMM
    constexpr std::uint64_t kZmm = kYmm | 0xe0;  // and masks, ZMM 0-15, ZMM 16-31
    constexpr std::uint64_t kTile = 3ull << 17;  // tile configuration and tile data
    CpuFeatures f;
    const Cpuid basic = cpuid(1, 0), extended = cpuid(7, 0);
    const Cpuid more = extended.eax >= 1 ? cpuid(7, 1) : Cpuid{};  // eax: the last subleaf
    const bool os_saves_states = bit(basic.ecx, 27);
    const std::uint64_t states = os_saves_states ? enabled_states() : 0;

    if ((states & kYmm) == kYmm) {
        f.avx2 = bit(extended.ebx, 5);
        f.fma = bit(basic.ecx, 12);
        f.f16c = bit(basic.ecx, 29);
        f.avx_vnni = bit(more.eax, 4);
    }
    if ((states & kZmm) == kZmm && bit(extended.ebx, 16)) {
        f.avx512f = true;
        f.avx512bw = bit(extended.ebx, 30);
        f.avx512dq = bit(extended.ebx, 17);
        f.avx512vl = bit(extended.ebx, 31);
        f.avx512_vnni = bit(extended.ecx, 11);
        f.avx512_vbmi = bit(extended.ecx, 1);
        f.avx512_bf16 = bit(more.eax, 5);
    }
    if ((states & kTile) == kTile && bit(extended.edx, 24) && request_tile_permission()) {
        f.amx_tile = true;
        f.amx_bf16 = bit(extended.edx, 22);
        f.amx_int8 = bit(extended.edx, 25);
    }
    return f;
}

bool is_amd() {
    const Cpuid vendor = cpuid(0, 0);  // ebx, edx, ecx spell AuthenticAMD or HygonGenuine
    return vendor.ebx == 0x68747541 || vendor.ebx == 0x6f677948;
}

#elif defined(__aarch64__) && defined(__linux__)

CpuFeatures detect() {
    // The kernel's ABI, spelled out since older headers lack the later names.
    constexpr unsigned long kAsimd = 1ul << 1, kAsimdDp = 1ul << 20;  // AT_HWCAP
    constexpr unsigned long kI8mm = 1ul << 13, kBf16 = 1ul << 14;     // AT_HWCAP2
    const unsigned long basic = getauxval(AT_HWCAP), more = getauxval(AT_HWCAP2);
    CpuFeatures f;
    f.neon = basic & kAsimd;
    f.dotprod = basic & kAsimdDp;
    f.i8mm = more & kI8mm;
    f.bf16 = more & kBf16;
    return f;
}

#elif defined(__aarch64__) && defined(__APPLE__)

bool sysctl_flag(const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

CpuFeatures detect() {
    CpuFeatures f;
    f.neon = true;
    f.dotprod = sysctl_flag("hw.optional.arm.FEAT_DotProd");
    f.i8mm = sysctl_flag("hw.optional.arm.FEAT_I8MM");
    f.bf16 = sysctl_flag("hw.optional.arm.FEAT_BF16");
    return f;
}

#else

CpuFeatures detect() {
    return {};
}

#endif

}  // namespace

const CpuFeatures& cpu_features() {
    static const CpuFeatures features = detect();
    return features;
}

CpuFeatures features_within(std::string_view isa) {
    CpuFeatures f = cpu_features();
    if (isa != "amx") f.amx_tile = f.amx_bf16 = f.amx_int8 = false;
    if (isa == "amx" || isa == "avx512bf16" || isa == "neonbf16") return f;
    f.avx512_bf16 = f.avx512_vbmi = f.bf16 = f.i8mm = false;
    if (isa == "avx512vnni" || isa == "neondotprod") return f;
    f.avx512_vnni = f.dotprod = false;
    if (isa != "avx2vnni") f.avx_vnni = false;
    if (isa == "avx512") return f;
    f.avx512f = f.avx512bw = f.avx512dq = f.avx512vl = false;
    if (isa == "avx2vnni" || isa == "avx2") return f;
    f.avx2 = f.fma = f.f16c = false;
    return f;
}

#if defined(__x86_64__)
const bool kPrefetchPastCaches = is_amd();
const std::int64_t kPrefetchAhead = kPrefetchPastCaches ? 8192 : 2048;
#else
const bool kPrefetchPastCaches = false;
const std::int64_t kPrefetchAhead = 8192;
#endif

int num_cores() {
#if defined(__linux__)
    // The mask's size is the kernel's business: double the guess until the kernel accepts it.
    for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
        cpu_set_t* set = CPU_ALLOC(capacity);
        if (set == nullptr) break;
        const std::size_t bytes = CPU_ALLOC_SIZE(capacity);
        const int failed = sched_getaffinity(0, bytes, set);
        const int count = failed ? 0 : CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (count > 0) return count;
    }
#endif
    const unsigned count = std::thread::hardware_concurrency();
    return count > 0 ? static_cast<int>(count) : 1;
}

}  // namespace kept
