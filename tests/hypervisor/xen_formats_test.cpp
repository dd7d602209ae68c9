// What comes from a peer about a Xen guest: its state at each checkpoint, its description, the
// layout of its memory. Goal: nothing malformed passes, everything well-formed survives a round.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <xxhash.h>

#include <cstring>

#include "hypervisor/xen/guest_description.h"
#include "hypervisor/xen/guest_layout.h"
#include "hypervisor/xen/guest_state.h"
#include "hypervisor/xen/placeholder_kernel.h"

namespace understudy::xen {
namespace {

GuestState some_state() {
  GuestState state;
  state.hvm_context.assign(1001, std::byte{7});
  state.parameters = {{1, 0xfefff}, {2, 1}};
  state.tsc = {.mode = 2, .khz = 2'000'000, .elapsed_ns = 123'456'789, .incarnation = 3};
  state.holes = {{3, 2}, {9, 1}};
  state.device_model.assign(5, std::byte{1});
  return state;
}

// After a change of the octets: as a peer would send it that means harm.
void seal(std::vector<std::byte>& octets) {
  const std::uint64_t bytes = octets.size();
  std::memcpy(octets.data() + 16, &bytes, sizeof bytes);
  const std::uint64_t sum = ::XXH3_64bits(octets.data() + 32, octets.size() - 32);
  std::memcpy(octets.data() + 24, &sum, sizeof sum);
}

TEST(GuestState, a_state_survives_the_way) {
  const GuestState state = some_state();
  const auto octets = state.encode();
  EXPECT_EQ(octets.size() % 8, 0U);
  EXPECT_EQ(GuestState::decode(octets).value(), state);
}

TEST(GuestState, a_state_without_the_optional_records_survives_too) {
  GuestState state = some_state();
  state.holes.clear();
  state.device_model.clear();
  state.method = Method::transparent;
  EXPECT_EQ(GuestState::decode(state.encode()).value(), state);
}

TEST(GuestState, each_changed_octet_is_noticed) {
  const auto octets = some_state().encode();
  for (std::size_t at = 0; at < octets.size(); ++at) {
    auto changed = octets;
    changed[at] ^= std::byte{0x10};
    const auto decoded = GuestState::decode(changed);
    ASSERT_FALSE(decoded) << at;
    EXPECT_EQ(decoded.error().code(), ErrorCode::bad_data);
  }
}

TEST(GuestState, each_shortened_state_is_refused) {
  const auto octets = some_state().encode();
  for (std::size_t bytes = 0; bytes < octets.size(); ++bytes) {
    std::vector<std::byte> shortened(octets.begin(),
                                     octets.begin() + static_cast<std::ptrdiff_t>(bytes));
    EXPECT_FALSE(GuestState::decode(shortened)) << bytes;
    if (bytes < 32) continue;
    seal(shortened);
    EXPECT_FALSE(GuestState::decode(shortened)) << bytes;
  }
}

TEST(GuestState, an_unknown_record_is_refused_by_its_number) {
  auto octets = some_state().encode();
  const std::uint32_t type = 99;
  std::memcpy(octets.data() + 32, &type, sizeof type);
  seal(octets);
  const auto decoded = GuestState::decode(octets);
  ASSERT_FALSE(decoded);
  EXPECT_NE(decoded.error().message().find("99"), std::string::npos);
}

TEST(GuestState, holes_that_overlap_are_refused) {
  GuestState state = some_state();
  state.holes = {{3, 2}, {4, 1}};
  EXPECT_FALSE(GuestState::decode(state.encode()));
  state.holes = {{UINT64_MAX, 2}};
  EXPECT_FALSE(GuestState::decode(state.encode()));
}

RC_GTEST_PROP(GuestState, sealed_noise_never_crashes, (std::vector<std::uint8_t> noise)) {
  auto octets = some_state().encode();
  for (std::size_t i = 0; i < noise.size() && i + 32 < octets.size(); ++i)
    octets[32 + (i * 37) % (octets.size() - 32)] = static_cast<std::byte>(noise[i]);
  seal(octets);
  (void)GuestState::decode(octets);
}

TEST(GuestLayout, a_small_guest_is_one_area_and_its_acpi_tables) {
  const auto layout = GuestLayout::pvh(128 << 10, 9).value();
  EXPECT_EQ(layout.areas(), (std::vector<Area>{{0, 32768}, {GuestLayout::kAcpiBegin, 9}}));
  EXPECT_EQ(layout.pages(), 32777U);
  EXPECT_EQ(layout.gfn_of(32767), 32767U);
  EXPECT_EQ(layout.gfn_of(32768), GuestLayout::kAcpiBegin);
}

TEST(GuestLayout, a_large_guest_goes_on_above_4_gib) {
  const auto layout = GuestLayout::pvh(std::uint64_t{8} << 20, 0).value();
  EXPECT_EQ(layout.pages(), std::uint64_t{8} << 18);
  EXPECT_EQ(layout.gfn_of(GuestLayout::kLowMemoryEnd), GuestLayout::kHighMemoryBegin);
  EXPECT_EQ(layout.end_gfn(),
            GuestLayout::kHighMemoryBegin + (std::uint64_t{8} << 18) - GuestLayout::kLowMemoryEnd);
}

TEST(GuestLayout, areas_out_of_order_or_empty_are_refused) {
  EXPECT_FALSE(GuestLayout::of({}));
  EXPECT_FALSE(GuestLayout::of({{0, 0}}));
  EXPECT_FALSE(GuestLayout::of({{10, 5}, {12, 5}}));
  EXPECT_FALSE(GuestLayout::of({{UINT64_MAX, UINT64_MAX}}));
  EXPECT_TRUE(GuestLayout::of({{10, 5}, {15, 5}}));
}

// The obvious way of doing it is the judge of the fast one.
RC_GTEST_PROP(GuestLayout, dirty_pages_are_those_whose_bit_is_set, ()) {
  const auto gaps = *rc::gen::container<std::vector<std::pair<unsigned, unsigned>>>(
      3, rc::gen::pair(rc::gen::inRange(0U, 200U), rc::gen::inRange(1U, 200U)));
  std::vector<Area> areas;
  std::uint64_t at = 0;
  for (const auto& [gap, count] : gaps) {
    areas.push_back({at + gap, count});
    at += gap + count;
  }
  const auto layout = GuestLayout::of(areas).value();
  const auto set =
      *rc::gen::container<std::vector<bool>>((at + 63) / 64 * 64, rc::gen::arbitrary<bool>());
  std::vector<std::uint64_t> bitmap(set.size() / 64);
  for (std::size_t bit = 0; bit < set.size(); ++bit)
    if (set[bit]) bitmap[bit / 64] |= std::uint64_t{1} << (bit % 64);
  DirtySet expected;
  for (std::uint64_t page = 0; page < layout.pages(); ++page)
    if (set[layout.gfn_of(page)]) expected = merge(expected, {{page, 1}});
  RC_ASSERT(layout.dirty_pages(bitmap) == expected);
}

GuestDescription some_description() {
  GuestDescription guest;
  guest.libxl = R"({"c_info":{"name":"d1"}})";
  guest.xen_version = "4.17";
  guest.layout = GuestLayout::pvh(128 << 10, 2).value();
  guest.parameters = {{1, 0xfefff}, {2, UINT64_MAX}};
  guest.cpuid = {{1, 0xffffffff, 1, 2, 3, 4}};
  guest.msrs = {{0x10, UINT64_MAX}};
  return guest;
}

TEST(GuestDescription, a_description_survives_the_way) {
  const auto guest = some_description();
  EXPECT_EQ(GuestDescription::from_text(guest.to_text()).value(), guest);
}

TEST(GuestDescription, what_is_malformed_is_named) {
  const std::string good = some_description().to_text();
  const auto with = [&good](std::string_view what, std::string_view instead) {
    std::string text = good;
    const auto at = text.find(what);
    EXPECT_NE(at, std::string::npos);
    return text.replace(at, what.size(), instead);
  };
  for (const auto& [text, word] : std::vector<std::pair<std::string, std::string>>{
           {"", "top level"},
           {"[]", "top level"},
           {with("\"cooperative\"", "\"magic\""), "method"},
           {with("\"cooperative\"", "7"), "method"},
           {with("[[0,32768]", "[[0,-1]"), "areas"},
           {with("[[0,32768]", "[[0]"), "areas"},
           {with("\"xen_version\"", "\"version_of_xen\""), "not known"},
           {with("[1,4294967295,1,", "[1,4294967296,1,"), "cpuid"}}) {
    const auto read = GuestDescription::from_text(text);
    ASSERT_FALSE(read) << text;
    EXPECT_EQ(read.error().code(), ErrorCode::bad_data);
    EXPECT_NE(read.error().message().find(word), std::string::npos) << read.error().message();
  }
}

TEST(PlaceholderKernel, it_is_an_elf_file_with_the_note_of_a_pvh_kernel) {
  const auto octets = placeholder_kernel();
  ASSERT_GT(octets.size(), 64U);
  EXPECT_EQ(std::memcmp(octets.data(), "\177ELF\2\1\1", 7), 0);
  const std::string_view text(reinterpret_cast<const char*>(octets.data()), octets.size());
  const auto owner = text.find(std::string_view("Xen\0", 4));
  ASSERT_NE(owner, std::string_view::npos);
  std::uint32_t type = 0;
  std::memcpy(&type, octets.data() + owner - 4, sizeof type);
  EXPECT_EQ(type, 18U);  // XEN_ELFNOTE_PHYS32_ENTRY
}

TEST(PlaceholderKernel, its_other_form_is_a_boot_image_of_linux) {
  const auto octets = placeholder_boot_image();
  ASSERT_GT(octets.size(), (std::to_integer<std::size_t>(octets[0x1f1]) + 1) * 512);
  EXPECT_EQ(std::memcmp(octets.data() + 0x202, "HdrS", 4), 0);
  EXPECT_EQ(std::memcmp(octets.data() + 0x1fe, "\x55\xaa", 2), 0);
}

}  // namespace
}  // namespace understudy::xen
