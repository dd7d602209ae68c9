#include "hypervisor/xen/guest_description.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <limits>

namespace understudy::xen {
namespace {

namespace json = boost::json;

constexpr std::size_t kTextBytesMax = std::size_t{768} << 10;
constexpr std::size_t kListMax = 4096;
constexpr std::size_t kVersionCharactersMax = 32;

Error wrong(std::string_view member, std::string_view expected) {
  return fail(ErrorCode::bad_data, "description of a Xen guest: {}: expected {}", member, expected);
}

// A number that JSON carries as signed or unsigned, at most `most`.
std::optional<std::uint64_t> number(const json::value& value, std::uint64_t most) {
  std::uint64_t found = 0;
  if (value.is_uint64()) {
    found = value.get_uint64();
  } else if (value.is_int64() && value.get_int64() >= 0) {
    found = static_cast<std::uint64_t>(value.get_int64());
  } else {
    return std::nullopt;
  }
  if (found > most) return std::nullopt;
  return found;
}

// A list of rows of `Columns` numbers each.
template <std::size_t Columns>
Result<std::vector<std::array<std::uint64_t, Columns>>> rows(
    const json::value& value, std::string_view member,
    const std::array<std::uint64_t, Columns>& most) {
  const auto* list = value.if_array();
  if (list == nullptr || list->size() > kListMax) return wrong(member, "a list");
  std::vector<std::array<std::uint64_t, Columns>> result;
  result.reserve(list->size());
  for (const json::value& element : *list) {
    const auto* row = element.if_array();
    if (row == nullptr || row->size() != Columns) {
      return wrong(member, fmt::format("rows of {} numbers", Columns));
    }
    std::array<std::uint64_t, Columns> numbers{};
    for (std::size_t i = 0; i < Columns; ++i) {
      const auto found = number((*row)[i], most[i]);
      if (!found) return wrong(member, fmt::format("numbers of at most {}", most[i]));
      numbers[i] = *found;
    }
    result.push_back(numbers);
  }
  return result;
}

constexpr std::uint64_t kAny32 = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint64_t kAny64 = std::numeric_limits<std::uint64_t>::max();

Result<std::string> text_member(const json::value& value, std::string_view member) {
  if (!value.is_string()) return wrong(member, "text");
  return std::string(value.get_string());
}

Result<void> read_member(std::string_view key, const json::value& value, GuestDescription& guest) {
  if (key == "libxl") {
    BOOST_OUTCOME_TRY(guest.libxl, text_member(value, key));
  } else if (key == "xen_version") {
    BOOST_OUTCOME_TRY(guest.xen_version, text_member(value, key));
    if (guest.xen_version.size() > kVersionCharactersMax) return wrong(key, "a short text");
  } else if (key == "method") {
    BOOST_OUTCOME_TRY(const auto method, text_member(value, key));
    if (method != "cooperative" && method != "transparent") {
      return wrong(key, "cooperative or transparent");
    }
    guest.method = method == "cooperative" ? Method::cooperative : Method::transparent;
  } else if (key == "areas") {
    BOOST_OUTCOME_TRY(const auto list, rows<2>(value, key, {kAny64, kAny64}));
    std::vector<Area> areas;
    for (const auto& row : list) areas.push_back({row[0], row[1]});
    BOOST_OUTCOME_TRY(guest.layout, GuestLayout::of(std::move(areas)));
  } else if (key == "parameters") {
    BOOST_OUTCOME_TRY(const auto list, rows<2>(value, key, {kAny32, kAny64}));
    for (const auto& row : list) guest.parameters.push_back({row[0], row[1]});
  } else if (key == "cpuid") {
    BOOST_OUTCOME_TRY(const auto list,
                      rows<6>(value, key, {kAny32, kAny32, kAny32, kAny32, kAny32, kAny32}));
    for (const auto& row : list) {
      const auto at = [&row](std::size_t i) { return static_cast<std::uint32_t>(row[i]); };
      guest.cpuid.push_back({at(0), at(1), at(2), at(3), at(4), at(5)});
    }
  } else if (key == "msrs") {
    BOOST_OUTCOME_TRY(const auto list, rows<2>(value, key, {kAny32, kAny64}));
    for (const auto& row : list) guest.msrs.push_back({static_cast<std::uint32_t>(row[0]), row[1]});
  } else {
    return fail(ErrorCode::bad_data,
                "description of a Xen guest: a member that is not known (is the sender a later "
                "version?)");
  }
  return ok();
}

}  // namespace

std::string GuestDescription::to_text() const {
  json::object object;
  object["libxl"] = libxl;
  object["xen_version"] = xen_version;
  object["method"] = to_string(method);
  json::array areas;
  for (const Area& area : layout.areas()) areas.push_back({area.first_gfn, area.count});
  object["areas"] = std::move(areas);
  json::array parameter_list;
  for (const auto& parameter : parameters)
    parameter_list.push_back({parameter.number, parameter.value});
  object["parameters"] = std::move(parameter_list);
  json::array leaves;
  for (const auto& leaf : cpuid)
    leaves.push_back({leaf.leaf, leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d});
  object["cpuid"] = std::move(leaves);
  json::array msr_list;
  for (const auto& msr : msrs) msr_list.push_back({msr.index, msr.value});
  object["msrs"] = std::move(msr_list);
  return json::serialize(object);
}

Result<GuestDescription> GuestDescription::from_text(std::string_view text) {
  if (text.size() > kTextBytesMax) return wrong("top level", "less text");
  boost::system::error_code error;
  const json::value value = json::parse(json::string_view(text.data(), text.size()), error);
  const auto* object = error ? nullptr : value.if_object();
  if (object == nullptr) return wrong("top level", "a JSON object");
  GuestDescription guest;
  for (const auto& [key, member] : *object) {
    BOOST_OUTCOME_TRY(read_member({key.data(), key.size()}, member, guest));
  }
  if (guest.libxl.empty()) return wrong("libxl", "libxl's configuration");
  if (guest.layout.pages() == 0) return wrong("areas", "at least one area");
  return guest;
}

}  // namespace understudy::xen
