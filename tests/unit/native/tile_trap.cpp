// Runs the kernels' AMX instructions on a CPU that has none: it stops at each, and the handler of
// that signal decodes it and carries it out on emulated tiles. What comes out must be, bit for bit,
// what the same kernels make of emulated tiles when they are compiled for those. The rows end
// where an unreadable page begins. See test_amx_machine_code.py, which builds this.
#define KEPT_NS trapped
#include "attend_matrix.h"
#include "linear_tiles.h"
#include "tiles_amx.h"
#include "tiles_emulated.h"
//
#include <sys/mman.h>
#include <ucontext.h>

#include <csignal>
#include <cstdio>
#include <random>
#include <vector>

namespace kept {

// As on the CPUs that have these instructions.
const bool kPrefetchPastCaches = false;
const std::int64_t kPrefetchAhead = 2048;

}  // namespace kept

namespace kept::trapped {
namespace {

const int kRegisters[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                          REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
int num_trapped = 0;

[[noreturn]] void fail(const char* why) {
    std::fprintf(stderr, "%s\n", why);
    std::abort();
}

// A three-byte VEX prefix, an opcode and its operands (SDM, volume 2, 2.3).
struct Instruction {
    int prefix, opcode, reg, rm, vvvv;
    bool has_memory = false;
    std::byte* address = nullptr;
    std::int64_t stride = 0;
    const std::uint8_t* end;

    Instruction(const std::uint8_t* at, const greg_t* registers) {
        if (at[0] != 0xc4 || (at[1] & 31) != 2 || at[2] & 0x84) fail("no instruction of AMX");
        const int r = ~at[1] >> 4 & 8, x = ~at[1] >> 3 & 8, b = ~at[1] >> 2 & 8;
        prefix = at[2] & 3, vvvv = ~at[2] >> 3 & 15, opcode = at[3];
        reg = (at[4] >> 3 & 7) | r, rm = (at[4] & 7) | b;
        const int mod = at[4] >> 6;
        end = at + 5;
        if (mod == 3) return;
        has_memory = true;
        int base = rm;
        if (rm % 8 == 4) {
            const int scale = *end >> 6, index = (*end >> 3 & 7) | x;
            base = (*end++ & 7) | b;
            if (index != 4) stride = registers[kRegisters[index]] * (1 << scale);
        }
        if (mod == 0 && base % 8 == 5) fail("an address without a register");
        std::int64_t offset = 0;
        if (mod == 1) offset = static_cast<std::int8_t>(*end++);
        if (mod == 2) {
            std::int32_t wide;
            std::memcpy(&wide, end, 4);
            offset = wide, end += 4;
        }
        address = reinterpret_cast<std::byte*>(registers[kRegisters[base]]) + offset;
    }
};

void on_unknown_instruction(int, siginfo_t*, void* context) {
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const Instruction i(reinterpret_cast<const std::uint8_t*>(registers[REG_RIP]), registers);
    const int what = i.opcode << 4 | i.prefix << 1 | (i.has_memory ? 1 : 0);
    if (what == 0x491)
        EmulatedTiles::configure(*reinterpret_cast<const TileConfig*>(i.address));
    else if (what == 0x490)
        EmulatedTiles::release();
    else if (what == 0x496)
        EmulatedTiles::zero(i.reg);
    else if (what == 0x4b7 || what == 0x4b3)  // TILELOADD, TILELOADDT1
        EmulatedTiles::load(i.reg, i.address, i.stride);
    else if (what == 0x4b5)
        EmulatedTiles::store(i.reg, i.address, i.stride);
    else if (what == 0x5c4)
        EmulatedTiles::dot(i.reg, i.rm, i.vvvv);
    else
        fail("an instruction that kernels do not use");
    ++num_trapped;
    registers[REG_RIP] = reinterpret_cast<greg_t>(i.end);
}

// Memory whose end is the end of what may be read.
std::byte* against_a_wall(std::size_t bytes) {
    const std::size_t page = 4096, whole = (bytes + page - 1) / page * page;
    void* memory =
        mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory");
    mprotect(static_cast<std::byte*>(memory) + whole, page, PROT_NONE);
    return static_cast<std::byte*>(memory) + whole - bytes;
}

template <class Tiles>
std::vector<float> run(const Weights& w, const std::vector<std::uint16_t>& x, std::int64_t rows) {
    const std::int64_t stride = w.padded_in(), width = w.num_panels() * kPanel;
    std::byte* a = against_a_wall(static_cast<std::size_t>(rows * stride * 2));
    std::memcpy(a, x.data(), static_cast<std::size_t>(rows * stride * 2));
    std::vector<float> out(static_cast<std::size_t>(rows * width));
    LinearArgs args{};
    args.weights = &w, args.in = {a, stride}, args.rows = rows;
    args.epilogue = Epilogue::store, args.out = out.data(), args.out_stride = width;
    std::vector<float> scratch(1 << 19);
    linear_on_tiles<Tiles>(args, 0, w.num_panels(), scratch.data());
    if (EmulatedTiles::in_use()) fail("tiles were left in use");
    return out;
}

void compare(Format format, std::int64_t inputs, std::int64_t outputs) {
    std::mt19937 random(1);
    Weights w;
    w.format = format, w.num_in = inputs, w.num_out = outputs;
    const std::int64_t bytes = w.num_panels() * w.bytes_per_panel();
    // Bits of no particular meaning, but of bf16 the exponents are kept from the largest.
    const auto number = [&] { return static_cast<std::uint16_t>(random() & 0xbfff); };
    std::vector<std::uint16_t> data(static_cast<std::size_t>(bytes / 2));
    std::vector<std::uint16_t> x(static_cast<std::size_t>(70 * w.padded_in()));
    const std::vector<float> scales(static_cast<std::size_t>(w.num_panels() * kPanel), 0.75f);
    for (auto& bits : data) bits = format == Format::bf16 ? number() : std::uint16_t(random());
    for (auto& bits : x) bits = number();
    w.data = reinterpret_cast<const std::byte*>(data.data());
    w.channel_scales = scales.data();
    const std::vector<std::uint16_t> group_scales(
        static_cast<std::size_t>(w.num_panels() * w.num_groups() * kPanel), 0x3c40);
    w.group_scales = group_scales.data();
    for (const std::int64_t rows : {1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 64, 70}) {
        const int before = num_trapped;
        const auto found = run<AmxTiles>(w, x, rows);
        if (num_trapped == before) fail("nothing was trapped");
        const auto expected = run<EmulatedTiles>(w, x, rows);
        if (std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) != 0)
            fail("other bits");
    }
}

// Keys or values of two heads, against a wall.
struct Held {
    std::vector<std::uint16_t> scales;
    Stored stored;

    Held(Codec codec, std::int64_t tokens, std::int64_t dim, std::mt19937& random) {
        const auto bytes = static_cast<std::size_t>(2 * tokens * code_bytes(codec, dim));
        std::byte* codes = against_a_wall(bytes);
        for (std::size_t i = 0; i < bytes; ++i) codes[i] = static_cast<std::byte>(random());
        // Of bf16 numbers below 2, and some too small for full precision.
        for (std::size_t i = 1; codec == Codec::bf16 && i < bytes; i += 2)
            codes[i] &= std::byte{0xbf};
        scales.assign(static_cast<std::size_t>(2 * tokens * num_scales(codec, dim)), 0x3c40);
        stored = {codec, codes, scales.data()};
    }
};

// The last `rows` of `tokens`, three queries a head.
template <class Tiles>
std::vector<std::uint16_t> attend_last(const Held& keys, const Held& values, std::int64_t dim,
                                       std::int64_t tokens, std::int64_t rows) {
    std::mt19937 random(2);
    const std::int64_t stride = 6 * round_up(dim, 32);
    std::vector<std::uint16_t> queries(static_cast<std::size_t>(rows * stride));
    for (auto& bits : queries) bits = static_cast<std::uint16_t>(random() & 0xbfff);
    std::vector<std::uint16_t> out(static_cast<std::size_t>(rows * 6 * dim));
    const std::int64_t starts[] = {0, rows}, lengths[] = {tokens};
    const std::int32_t table[] = {0};
    const AttendRows all{0, 0, rows, 0, (tokens + kChunk - 1) / kChunk, -1};
    AttendArgs args{};
    args.shape = {6, 2, dim, 0.125f, true, -1, 0, 0};
    args.queries = {queries.data(), stride}, args.out = {out.data(), 6 * dim};
    args.keys = keys.stored, args.values = values.stored;
    args.layout = {tokens, 0, -1};
    args.sequences = {1, starts, {table, 1}, lengths, nullptr};
    args.all_rows = &all;
    std::vector<float> scratch(1 << 19);
    for (std::int64_t head = 0; head < 2; ++head)
        attend_on_tiles<Tiles>(args, {0, 1, head, 0, all.chunk_end}, scratch.data());
    if (EmulatedTiles::in_use()) fail("tiles were left in use");
    return out;
}

void compare(Codec of_keys, Codec of_values, std::int64_t dim) {
    std::mt19937 random(1);
    const std::int64_t tokens = 200;
    const Held keys(of_keys, tokens, dim, random), values(of_values, tokens, dim, random);
    for (const std::int64_t rows : {1, 5, 6, 40}) {
        const int before = num_trapped;
        const auto found = attend_last<AmxTiles>(keys, values, dim, tokens, rows);
        if (num_trapped == before) fail("nothing was trapped");
        if (found != attend_last<EmulatedTiles>(keys, values, dim, tokens, rows))
            fail("other bits");
    }
}

}  // namespace
}  // namespace kept::trapped

int main() {
    struct sigaction action = {};
    action.sa_sigaction = kept::trapped::on_unknown_instruction;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, nullptr);
    using kept::Format;
    for (const Format format :
         {Format::bf16, Format::int8, Format::int4, Format::mxfp4, Format::q4_0})
        for (const auto& [inputs, outputs] : {std::pair{32, 32}, {33, 65}, {300, 97}, {64, 1100}})
            kept::trapped::compare(format, inputs, outputs);
    using kept::Codec;
    for (const std::int64_t dim : {64, 33, 96}) {
        kept::trapped::compare(Codec::bf16, Codec::bf16, dim);
        kept::trapped::compare(Codec::int8, Codec::int4, dim);
        kept::trapped::compare(Codec::int4, Codec::int8, dim);
    }
    std::printf("%d instructions\n", kept::trapped::num_trapped);
}
