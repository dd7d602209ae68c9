#include "hypervisor/xen/guest_state.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace understudy::xen {
namespace {

constexpr std::array<char, 8> kMagic = {'U', 'S', 'X', 'E', 'N', 'G', 'S', '1'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHeaderBytes = 32;
constexpr std::size_t kChecksumOffset = 24;
constexpr std::size_t kRecordHeaderBytes = 8;
constexpr std::size_t kContextBytesMax = std::size_t{4} << 20;
constexpr std::size_t kDeviceModelBytesMax = std::size_t{8} << 20;
constexpr std::size_t kParametersMax = 64;
constexpr std::size_t kHolesMax = 65'536;
constexpr std::size_t kTscBytes = 24;

enum class Type : std::uint32_t {
  method = 1,
  hvm_context = 2,
  hvm_params = 3,
  tsc_info = 4,
  holes = 5,
  device_model = 6,
};
constexpr std::uint32_t kTypeMax = 6;

constexpr std::array<std::string_view, kTypeMax + 1> kTypeNames = {
    "", "method", "hvm_context", "hvm_params", "tsc_info", "holes", "device_model"};

// x86 only, as Xen's own context is: the host's order of octets is the format's.
template <typename Number>
void put(std::vector<std::byte>& out, Number number) {
  const auto* octets = reinterpret_cast<const std::byte*>(&number);
  out.insert(out.end(), octets, octets + sizeof number);
}

template <typename Number>
Number get(std::span<const std::byte> octets, std::size_t at) {
  Number number = 0;
  std::memcpy(&number, octets.data() + at, sizeof number);
  return number;
}

std::size_t padded(std::size_t octets) {
  return (octets + 7) / 8 * 8;
}

class Writer {
 public:
  Writer() { out_.resize(kHeaderBytes); }

  void record(Type type, std::span<const std::byte> content) {
    put(out_, static_cast<std::uint32_t>(type));
    put(out_, static_cast<std::uint32_t>(content.size()));
    out_.insert(out_.end(), content.begin(), content.end());
    out_.resize(padded(out_.size()));
    ++records_;
  }

  std::vector<std::byte> finish() {
    const auto bytes = static_cast<std::uint64_t>(out_.size());
    std::memcpy(out_.data(), kMagic.data(), kMagic.size());
    std::memcpy(out_.data() + 8, &kVersion, sizeof kVersion);
    std::memcpy(out_.data() + 12, &records_, sizeof records_);
    std::memcpy(out_.data() + 16, &bytes, sizeof bytes);
    const std::uint64_t sum = ::XXH3_64bits(out_.data() + kHeaderBytes, out_.size() - kHeaderBytes);
    std::memcpy(out_.data() + kChecksumOffset, &sum, sizeof sum);
    return std::move(out_);
  }

 private:
  std::vector<std::byte> out_;
  std::uint32_t records_ = 0;
};

Error wrong(std::string_view what) {
  return fail(ErrorCode::bad_data, "state of a Xen guest: {}", what);
}

Error wrong_record(Type type, std::size_t octets) {
  return fail(ErrorCode::bad_data, "state of a Xen guest: record {} with {} octets is malformed",
              kTypeNames[static_cast<std::size_t>(type)], octets);
}

Result<void> read_parameters(std::span<const std::byte> content, GuestState& state) {
  if (content.size() % 16 != 0 || content.size() / 16 > kParametersMax) {
    return wrong_record(Type::hvm_params, content.size());
  }
  for (std::size_t at = 0; at < content.size(); at += 16) {
    state.parameters.push_back(
        {get<std::uint64_t>(content, at), get<std::uint64_t>(content, at + 8)});
  }
  return ok();
}

Result<void> read_holes(std::span<const std::byte> content, GuestState& state) {
  if (content.size() % 16 != 0 || content.size() / 16 > kHolesMax) {
    return wrong_record(Type::holes, content.size());
  }
  std::uint64_t end = 0;
  for (std::size_t at = 0; at < content.size(); at += 16) {
    const PageRange hole{get<std::uint64_t>(content, at), get<std::uint64_t>(content, at + 8)};
    if (hole.count == 0 || hole.first < end || hole.count > UINT64_MAX - hole.first) {
      return wrong_record(Type::holes, content.size());
    }
    end = hole.first + hole.count;
    state.holes.push_back(hole);
  }
  return ok();
}

Result<void> read_record(Type type, std::span<const std::byte> content, GuestState& state) {
  switch (type) {
    case Type::method: {
      if (content.size() != 4) return wrong_record(type, content.size());
      const auto method = get<std::uint32_t>(content, 0);
      if (method != 1 && method != 2) return wrong_record(type, content.size());
      state.method = static_cast<Method>(method);
      return ok();
    }
    case Type::hvm_context:
      if (content.empty() || content.size() > kContextBytesMax) {
        return wrong_record(type, content.size());
      }
      state.hvm_context.assign(content.begin(), content.end());
      return ok();
    case Type::hvm_params:
      return read_parameters(content, state);
    case Type::tsc_info:
      if (content.size() != kTscBytes) return wrong_record(type, content.size());
      state.tsc = {.mode = get<std::uint32_t>(content, 0),
                   .khz = get<std::uint32_t>(content, 4),
                   .elapsed_ns = get<std::uint64_t>(content, 8),
                   .incarnation = get<std::uint32_t>(content, 16)};
      return ok();
    case Type::holes:
      return read_holes(content, state);
    case Type::device_model:
      if (content.size() > kDeviceModelBytesMax) return wrong_record(type, content.size());
      state.device_model.assign(content.begin(), content.end());
      return ok();
  }
  return wrong_record(type, content.size());
}

}  // namespace

std::string_view to_string(Method method) {
  return method == Method::cooperative ? "cooperative" : "transparent";
}

std::vector<std::byte> GuestState::encode() const {
  Writer writer;
  std::vector<std::byte> content;
  put(content, static_cast<std::uint32_t>(method));
  writer.record(Type::method, content);
  writer.record(Type::hvm_context, hvm_context);

  content.clear();
  for (const HvmParameter& parameter : parameters) {
    put(content, parameter.number);
    put(content, parameter.value);
  }
  writer.record(Type::hvm_params, content);

  content.clear();
  put(content, tsc.mode);
  put(content, tsc.khz);
  put(content, tsc.elapsed_ns);
  put(content, tsc.incarnation);
  put(content, std::uint32_t{0});
  writer.record(Type::tsc_info, content);

  if (!holes.empty()) {
    content.clear();
    for (const PageRange& hole : holes) {
      put(content, hole.first);
      put(content, hole.count);
    }
    writer.record(Type::holes, content);
  }
  if (!device_model.empty()) writer.record(Type::device_model, device_model);
  return writer.finish();
}

Result<GuestState> GuestState::decode(std::span<const std::byte> octets) {
  if (octets.size() < kHeaderBytes || std::memcmp(octets.data(), kMagic.data(), kMagic.size()) != 0)
    return wrong("it does not begin as one");
  if (const auto version = get<std::uint32_t>(octets, 8); version != kVersion) {
    return fail(ErrorCode::bad_data, "state of a Xen guest: version {}, expected {}", version,
                kVersion);
  }
  if (get<std::uint64_t>(octets, 16) != octets.size()) {
    return fail(ErrorCode::bad_data, "state of a Xen guest: {} octets, {} were announced",
                octets.size(), get<std::uint64_t>(octets, 16));
  }
  const auto sum = ::XXH3_64bits(octets.data() + kHeaderBytes, octets.size() - kHeaderBytes);
  if (get<std::uint64_t>(octets, kChecksumOffset) != sum) return wrong("the checksum differs");

  GuestState state;
  std::array<bool, kTypeMax + 1> seen{};
  std::uint32_t records = 0;
  for (std::size_t at = kHeaderBytes; at < octets.size(); ++records) {
    if (octets.size() - at < kRecordHeaderBytes) return wrong("it ends within a record");
    const auto number = get<std::uint32_t>(octets, at);
    const std::size_t bytes = get<std::uint32_t>(octets, at + 4);
    at += kRecordHeaderBytes;
    if (padded(bytes) > octets.size() - at) return wrong("it ends within a record");
    if (number == 0 || number > kTypeMax) {
      return fail(ErrorCode::bad_data, "state of a Xen guest: no record has the type {}", number);
    }
    if (std::exchange(seen[number], true)) return wrong("a record comes twice");
    BOOST_OUTCOME_TRY(read_record(static_cast<Type>(number), octets.subspan(at, bytes), state));
    at += padded(bytes);
  }
  if (records != get<std::uint32_t>(octets, 12)) return wrong("the number of records differs");
  for (const Type type : {Type::method, Type::hvm_context, Type::hvm_params, Type::tsc_info}) {
    if (!seen[static_cast<std::size_t>(type)]) {
      return fail(ErrorCode::bad_data, "state of a Xen guest: there is no {}",
                  kTypeNames[static_cast<std::size_t>(type)]);
    }
  }
  return state;
}

}  // namespace understudy::xen
