#include "handed.h"

#include <array>
#include <stdexcept>
#include <utility>
#include <vector>

namespace nb = nanobind;

namespace kept {
namespace {

constexpr std::array<const char*, 6> kNames{"uint8",    "int8",    "int64",
                                            "bfloat16", "float16", "float32"};

std::string name_of(Number number) {
    return kNames[static_cast<std::size_t>(number)];
}

[[noreturn]] void refuse(const char* what, const std::string& why) {
    throw std::invalid_argument(std::string(what) + " " + why);
}

// torch's own objects for the dtypes, in the order of Number.
const std::array<PyObject*, 6>& dtypes() {
    static const std::array<PyObject*, 6> found = [] {
        std::array<PyObject*, 6> made{};
        const nb::module_ torch = nb::module_::import_("torch");
        for (std::size_t i = 0; i < made.size(); ++i)
            made[i] = nb::object(torch.attr(kNames[i])).release().ptr();
        return made;
    }();
    return found;
}

Number type_of(nb::handle tensor, const char* what) {
    const nb::object dtype = tensor.attr("dtype");
    for (std::size_t i = 0; i < kNames.size(); ++i)
        if (dtype.ptr() == dtypes()[i]) return static_cast<Number>(i);
    refuse(what, "are of " + std::string(nb::str(dtype).c_str()) + ", which no kernel reads");
}

std::byte* memory_of(nb::handle tensor, std::int64_t count, const char* what) {
    if (!nb::cast<bool>(tensor.attr("is_cpu"))) refuse(what, "do not lie in the CPU's memory");
    const auto address = nb::cast<std::uintptr_t>(tensor.attr("data_ptr")());
    if (!address && count) refuse(what, "have no memory");
    return reinterpret_cast<std::byte*>(address);
}

std::vector<std::int64_t> sizes(const nb::object& found) {
    std::vector<std::int64_t> out;
    for (nb::handle size : found) out.push_back(nb::cast<std::int64_t>(size));
    return out;
}

Number codes_of(Codec codec) {
    switch (codec) {
        case Codec::fp32:
            return Number::fp32;
        case Codec::bf16:
            return Number::bf16;
        case Codec::fp16:
            return Number::fp16;
        case Codec::int8:
            return Number::i8;
        case Codec::int4:
            return Number::u8;
    }
    return Number::u8;
}

// (slots, G, S, width), each entry behind the one before, and each head a capacity behind the last.
std::pair<std::byte*, Room> hand_slots(nb::handle tensor, Number type, const char* what) {
    if (type_of(tensor, what) != type) refuse(what, "are not of " + name_of(type));
    const auto size = sizes(tensor.attr("shape")), step = sizes(tensor.attr("stride")());
    if (size.size() != 4) refuse(what, "are not (slots, heads, entries, width)");
    std::byte* data = memory_of(tensor, size[0] * size[1] * size[2] * size[3], what);
    Room found{size[0], size[1], size[2], size[3], -1};
    const bool rows = (size[3] <= 1 || step[3] == 1) && (size[2] <= 1 || step[2] == size[3]);
    const std::int64_t head = size[1] > 1 ? step[1] : size[0] > 1 ? step[0] : -1;
    if (head >= 0) found.capacity = size[3] ? head / size[3] : 0;
    const bool heads = head < 0 || head == found.capacity * size[3];
    const bool slots = size[0] <= 1 || size[1] <= 1 || step[0] == size[1] * step[1];
    if (!rows || !heads || !slots) refuse(what, "have gaps between their entries");
    return {data, found};
}

}  // namespace

Handed hand(nb::handle tensor, const char* what) {
    if (tensor.is_none()) return {};
    const Number type = type_of(tensor, what);
    const auto count = nb::cast<std::int64_t>(tensor.attr("numel")());
    if (!nb::cast<bool>(tensor.attr("is_contiguous")())) refuse(what, "are not contiguous");
    return {memory_of(tensor, count, what), type, count};
}

std::byte* numbers(nb::handle tensor, Number type, std::int64_t needed, const char* what) {
    const Handed found = hand(tensor, what);
    if (tensor.is_none()) return nullptr;
    if (found.type != type || found.count < needed)
        refuse(what, "are " + std::to_string(found.count) + " of " + name_of(found.type) +
                         ", where " + std::to_string(needed) + " of " + name_of(type) +
                         " are needed");
    return found.data;
}

void need(nb::handle tensor, const char* what) {
    if (tensor.is_none()) refuse(what, "are missing");
}

LayerSide hand_side(Codec codec, nb::handle codes, nb::handle scales) {
    auto [data, room] = hand_slots(codes, codes_of(codec), "keys or values");
    LayerSide side{{codec, data, nullptr}, room};
    if (scales.is_none() != (codec != Codec::int8 && codec != Codec::int4))
        refuse("scales", "belong to int8 and int4, and to nothing else");
    if (!scales.is_none()) {
        const auto [place, other] = hand_slots(scales, Number::bf16, "scales");
        if (other.slots != room.slots || other.heads != room.heads ||
            other.capacity != room.capacity || other.entries != room.entries)
            refuse("scales", "do not lie as the codes that they belong to");
        side.stored.scales = reinterpret_cast<std::uint16_t*>(place);
        side.room.scales = other.width;
    }
    return side;
}

}  // namespace kept
