// The paravirtual state of a guest as it comes from a peer. Goal: everything well-formed survives a
// round; what is cut short, too long or names a node that is the toolstack's is refused.
#include <gtest/gtest.h>

#include <cstring>

#include "hypervisor/xen/pv_guest_state.h"

namespace understudy::xen {
namespace {

PvGuestState some_state() {
  PvGuestState state;
  state.domid = 7;
  state.system_time_ns = 123'456'789'000;
  state.vm_assist = 32;
  state.shared_info_gfn = 0x7fff;
  state.callback = 0x2000000000000f3;
  state.vcpus = {{.vcpu_id = 0, .vcpu_info_gfn = 3, .fifo_control_gfn = kNoGfn},
                 {.vcpu_id = 1, .upcall_vector = 0xf3, .runstate_time_ns = {1, 2, 3, 4}}};
  state.channels = {{.port = 5, .state = 2, .priority = 7, .remote = 33}};
  state.fifo_gfns = {9};
  state.grant_gfns = {0x10000, 0x10001};
  state.shared_info.fill(std::byte{1});
  state.grants.resize(2);
  state.grants[1].fill(std::byte{2});
  state.pages.push_back({.gfn = 0xfefff});
  state.nodes = {
      {"vif/0/tx-ring-ref", "8"}, {"vif/0/queue-1/event-channel", "5"}, {"vif/0/state", "4"}};
  state.watches = {{"control/shutdown", "FFFFFFFF82BB0540"}};
  return state;
}

TEST(PvGuestState, a_state_survives_the_way) {
  EXPECT_EQ(PvGuestState::decode(some_state().encode()).value(), some_state());
  EXPECT_EQ(PvGuestState::decode(PvGuestState{}.encode()).value(), PvGuestState{});
}

TEST(PvGuestState, each_shortened_or_lengthened_state_is_refused) {
  auto octets = some_state().encode();
  for (std::size_t bytes = 0; bytes < octets.size(); ++bytes)
    ASSERT_FALSE(PvGuestState::decode(std::span(octets).first(bytes))) << bytes;
  octets.push_back({});
  EXPECT_FALSE(PvGuestState::decode(octets));
}

// A list that is announced and not there asks for no memory.
TEST(PvGuestState, counts_beyond_any_guest_are_refused) {
  for (std::size_t at = 4; at < 32; at += 4) {
    auto octets = some_state().encode();
    const std::uint32_t many = 0x7fffffff;
    std::memcpy(octets.data() + at, &many, sizeof many);
    const auto decoded = PvGuestState::decode(octets);
    ASSERT_FALSE(decoded) << at;
    EXPECT_EQ(decoded.error().code(), ErrorCode::bad_data);
  }
}

TEST(PvGuestState, a_peer_cannot_say_where_a_backend_is) {
  for (const char* path : {"vif/0/backend", "vif/0/backend-id", "vif/0/mac", "vbd/0/ring-ref",
                           "vif/../../../0/x", "vif//0", "vif/0/", "/vif/0/state", "vif/0/a b"}) {
    EXPECT_FALSE(carried_node(path)) << path;
    PvGuestState state = some_state();
    state.nodes.push_back({path, "1"});
    EXPECT_FALSE(PvGuestState::decode(state.encode())) << path;
  }
}

}  // namespace
}  // namespace understudy::xen
