#include "hypervisor/xen/pv_guest_state.h"

#include <algorithm>
#include <cstring>

namespace understudy::xen {
namespace {

constexpr std::uint32_t kVcpusMax = 128;
constexpr std::uint32_t kChannelsMax = 1024;
constexpr std::uint32_t kFifoPagesMax = 128;
constexpr std::uint32_t kGrantFramesMax = 64;
constexpr std::uint32_t kPagesMax = 1024;
constexpr std::uint32_t kTextsMax = 1024;
constexpr std::uint32_t kTextBytesMax = 3072;  // xenstore's own limit for absolute paths

void put_octets(std::vector<std::byte>& out, const void* data, std::size_t bytes) {
  const auto* octets = static_cast<const std::byte*>(data);
  out.insert(out.end(), octets, octets + bytes);
}

template <typename Number>
void put(std::vector<std::byte>& out, Number number) {
  put_octets(out, &number, sizeof number);
}

template <typename Element>
void put_list(std::vector<std::byte>& out, const std::vector<Element>& list) {
  put_octets(out, list.data(), list.size() * sizeof(Element));
}

void put_text(std::vector<std::byte>& out, const std::string& text) {
  put(out, static_cast<std::uint32_t>(text.size()));
  put_octets(out, text.data(), text.size());
}

Error wrong(std::string_view what) {
  return fail(ErrorCode::bad_data, "paravirtual state of a Xen guest: {}", what);
}

class Reader {
 public:
  explicit Reader(std::span<const std::byte> octets) : rest_(octets) {}

  Result<void> take(void* into, std::size_t bytes) {
    if (bytes > rest_.size()) return wrong("it ends too early");
    if (bytes > 0) std::memcpy(into, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
    return ok();
  }

  template <typename Number>
  Result<Number> number() {
    Number value = 0;
    BOOST_OUTCOME_TRY(take(&value, sizeof value));
    return value;
  }

  Result<std::uint32_t> count(std::uint32_t most) {
    BOOST_OUTCOME_TRY(const auto value, number<std::uint32_t>());
    if (value > most) return wrong("a list is longer than any guest's");
    return value;
  }

  // The memory is asked for after it is known that there is as much to read.
  template <typename Element>
  Result<std::vector<Element>> list(std::uint32_t count) {
    if (count * sizeof(Element) > rest_.size()) return wrong("it ends too early");
    std::vector<Element> elements(count);
    BOOST_OUTCOME_TRY(take(elements.data(), count * sizeof(Element)));
    return elements;
  }

  Result<std::string> text() {
    BOOST_OUTCOME_TRY(const auto bytes, count(kTextBytesMax));
    if (bytes > rest_.size()) return wrong("it ends too early");
    std::string value(bytes, '\0');
    BOOST_OUTCOME_TRY(take(value.data(), bytes));
    if (value.find('\0') != std::string::npos) return wrong("a text with a zero octet");
    return value;
  }

  [[nodiscard]] bool done() const { return rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
};

bool plain(char letter) {
  return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
         (letter >= '0' && letter <= '9') || letter == '-' || letter == '_' || letter == '/';
}

Result<std::vector<PvText>> read_texts(Reader& reader, std::uint32_t count) {
  std::vector<PvText> texts;
  for (std::uint32_t i = 0; i < count; ++i) {
    PvText text;
    BOOST_OUTCOME_TRY(text.path, reader.text());
    BOOST_OUTCOME_TRY(text.value, reader.text());
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace

bool carried_node(std::string_view path) {
  static constexpr std::array<std::string_view, 8> kToolstacks = {
      "backend", "backend-id", "handle", "mac", "mtu", "trusted", "device-type", "virtual-device"};
  if (!path.starts_with("vif/") || !std::ranges::all_of(path, plain)) return false;
  if (path.find("//") != std::string_view::npos || path.ends_with('/')) return false;
  return std::ranges::find(kToolstacks, path.substr(path.rfind('/') + 1)) == kToolstacks.end();
}

std::vector<std::byte> PvGuestState::encode() const {
  std::vector<std::byte> out;
  for (const std::size_t count :
       {std::size_t{domid}, vcpus.size(), channels.size(), fifo_gfns.size(), grant_gfns.size(),
        pages.size(), nodes.size(), watches.size()})
    put(out, static_cast<std::uint32_t>(count));
  for (const std::uint64_t value : {system_time_ns, vm_assist, shared_info_gfn, callback})
    put(out, value);
  put_list(out, vcpus);
  put_list(out, channels);
  put_list(out, fifo_gfns);
  put_list(out, grant_gfns);
  put_octets(out, shared_info.data(), shared_info.size());
  put_list(out, grants);
  for (const PvPageAt& page : pages) {
    put(out, page.gfn);
    put_octets(out, page.content.data(), page.content.size());
  }
  for (const auto* texts : {&nodes, &watches}) {
    for (const PvText& text : *texts) {
      put_text(out, text.path);
      put_text(out, text.value);
    }
  }
  return out;
}

Result<PvGuestState> PvGuestState::decode(std::span<const std::byte> octets) {
  Reader reader(octets);
  PvGuestState state;
  BOOST_OUTCOME_TRY(state.domid, reader.number<std::uint32_t>());
  BOOST_OUTCOME_TRY(const auto vcpus, reader.count(kVcpusMax));
  BOOST_OUTCOME_TRY(const auto channels, reader.count(kChannelsMax));
  BOOST_OUTCOME_TRY(const auto fifo_pages, reader.count(kFifoPagesMax));
  BOOST_OUTCOME_TRY(const auto grant_frames, reader.count(kGrantFramesMax));
  BOOST_OUTCOME_TRY(const auto pages, reader.count(kPagesMax));
  BOOST_OUTCOME_TRY(const auto nodes, reader.count(kTextsMax));
  BOOST_OUTCOME_TRY(const auto watches, reader.count(kTextsMax));
  for (auto* value :
       {&state.system_time_ns, &state.vm_assist, &state.shared_info_gfn, &state.callback}) {
    BOOST_OUTCOME_TRY(*value, reader.number<std::uint64_t>());
  }
  BOOST_OUTCOME_TRY(state.vcpus, reader.list<PvVcpu>(vcpus));
  BOOST_OUTCOME_TRY(state.channels, reader.list<PvChannel>(channels));
  BOOST_OUTCOME_TRY(state.fifo_gfns, reader.list<std::uint64_t>(fifo_pages));
  BOOST_OUTCOME_TRY(state.grant_gfns, reader.list<std::uint64_t>(grant_frames));
  BOOST_OUTCOME_TRY(reader.take(state.shared_info.data(), state.shared_info.size()));
  BOOST_OUTCOME_TRY(state.grants, reader.list<PvPage>(grant_frames));
  for (std::uint32_t i = 0; i < pages; ++i) {
    PvPageAt& page = state.pages.emplace_back();
    BOOST_OUTCOME_TRY(page.gfn, reader.number<std::uint64_t>());
    BOOST_OUTCOME_TRY(reader.take(page.content.data(), page.content.size()));
  }
  BOOST_OUTCOME_TRY(state.nodes, read_texts(reader, nodes));
  BOOST_OUTCOME_TRY(state.watches, read_texts(reader, watches));
  if (!reader.done()) return wrong("it goes on after its end");
  for (const PvText& node : state.nodes) {
    if (!carried_node(node.path)) {
      return fail(ErrorCode::bad_data,
                  "paravirtual state of a Xen guest: a node that is not a frontend's own");
    }
  }
  return state;
}

}  // namespace understudy::xen
