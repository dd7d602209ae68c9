// A guest that is asked to suspend, and what it, an operator or another toolstack may do meanwhile.
// Goal: each of them has the outcome that docs/xen.md states. Method: looks at a guest as it might
// be, at times as they might pass; a real guest that refuses is not to be had at will. Untested
// here: two toolstacks that ask within the same moment, which nobody can tell apart.
#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <string>

#include "hypervisor/xen/save_guard.h"
#include "hypervisor/xen/suspend_request.h"

namespace understudy::xen {
namespace {

using namespace std::chrono_literals;
using Kind = SuspendRequest::Kind;

const GuestSight kRunning{};
const GuestSight kSuspended{.suspended = true, .dying = false, .paused = false, .ended = {}};

class XenSuspendRequest : public ::testing::Test {
 protected:
  static constexpr SuspendRequest::Clock::time_point kBegin{std::chrono::hours(1)};
  SuspendRequest request_{{.answer = 5s, .suspend = 30s, .usual = 40ms}, kBegin};

  void ask_at(std::chrono::milliseconds after) {
    ASSERT_EQ(request_.on_look(kBegin + after, kRunning).kind, Kind::ask);
    ASSERT_EQ(request_.on_asked(kBegin + after, true, "").kind, Kind::wait);
  }
  static void expect_failed(const SuspendRequest::Step& step, ErrorCode code,
                            std::string_view words) {
    ASSERT_EQ(step.kind, Kind::failed) << words;
    EXPECT_EQ(step.why->code(), code) << step.why->message();
    EXPECT_NE(step.why->message().find(words), std::string::npos) << step.why->message();
  }
};

TEST_F(XenSuspendRequest, a_guest_that_takes_part) {
  ASSERT_EQ(request_.on_look(kBegin, kRunning).kind, Kind::ask);
  // Left alone while it cannot be done yet; then looked at often enough.
  EXPECT_EQ(request_.on_asked(kBegin, true, "").pause, 10ms);
  EXPECT_EQ(request_.on_look(kBegin + 10ms, kRunning).pause, 1250us);
  EXPECT_EQ(request_.on_look(kBegin + 40ms, kSuspended).kind, Kind::done);
  EXPECT_EQ(request_.looks(), 3U);
}

// Its request is taken back, once it has had its time, and not before.
TEST_F(XenSuspendRequest, a_guest_that_ignores_it) {
  ask_at(0ms);
  EXPECT_EQ(request_.on_look(kBegin + 5s, kRunning).kind, Kind::wait);
  ASSERT_EQ(request_.on_look(kBegin + 5s + 1ms, kRunning).kind, Kind::withdraw);
  expect_failed(request_.on_withdrawn(kBegin + 5s + 2ms, true), ErrorCode::timed_out,
                "did not answer the request to suspend within 5 s");
}

// It has taken the request and goes on running: it may still suspend, so it is given longer, and
// whoever gives up says why.
TEST_F(XenSuspendRequest, a_guest_that_takes_it_and_refuses) {
  ask_at(0ms);
  ASSERT_EQ(request_.on_look(kBegin + 6s, kRunning).kind, Kind::withdraw);
  ASSERT_EQ(request_.on_withdrawn(kBegin + 6s, false).kind, Kind::wait);
  EXPECT_EQ(request_.on_look(kBegin + 36s, kRunning).kind, Kind::wait);
  expect_failed(request_.on_look(kBegin + 36s + 1ms, kRunning), ErrorCode::timed_out,
                "did not stand still within 30 s");
}

TEST_F(XenSuspendRequest, a_guest_that_is_late_and_does_it_after_all) {
  ask_at(0ms);
  ASSERT_EQ(request_.on_look(kBegin + 6s, kRunning).kind, Kind::withdraw);
  ASSERT_EQ(request_.on_withdrawn(kBegin + 6s, false).kind, Kind::wait);
  EXPECT_EQ(request_.on_look(kBegin + 20s, kSuspended).kind, Kind::done);
}

TEST_F(XenSuspendRequest, a_guest_that_ends_instead) {
  ask_at(0ms);
  expect_failed(request_.on_look(kBegin + 1ms, {false, false, false, "rebooted"}),
                ErrorCode::failed, "the guest rebooted instead of suspending");
  SuspendRequest crash({}, kBegin);
  expect_failed(crash.on_look(kBegin, {false, false, false, "crashed"}), ErrorCode::failed,
                "crashed");
  SuspendRequest destroyed({}, kBegin);
  expect_failed(destroyed.on_look(kBegin, {false, true, false, {}}), ErrorCode::failed,
                "was destroyed");
}

// What an operator has asked for and the guest has not read yet is not overwritten.
TEST_F(XenSuspendRequest, an_operators_request_comes_first) {
  ASSERT_EQ(request_.on_look(kBegin, kRunning).kind, Kind::ask);
  EXPECT_EQ(request_.on_asked(kBegin, false, "reboot").kind, Kind::wait);
  ASSERT_EQ(request_.on_look(kBegin + 5s + 1ms, kRunning).kind, Kind::ask);
  expect_failed(request_.on_asked(kBegin + 5s + 1ms, false, "reboot"), ErrorCode::try_again,
                "another request (reboot)");
}

// It cannot answer, so it is not asked; whatever it was asked before is taken back.
TEST_F(XenSuspendRequest, a_guest_that_an_operator_has_paused) {
  const GuestSight paused{.suspended = false, .dying = false, .paused = true, .ended = {}};
  EXPECT_EQ(request_.on_look(kBegin, paused).kind, Kind::wait);
  expect_failed(request_.on_look(kBegin + 5s + 1ms, paused), ErrorCode::timed_out, "xl unpause");

  SuspendRequest for_a_moment({.answer = 5s, .suspend = 30s, .usual = 40ms}, kBegin);
  EXPECT_EQ(for_a_moment.on_look(kBegin, paused).kind, Kind::wait);
  EXPECT_EQ(for_a_moment.on_look(kBegin + 1s, kRunning).kind, Kind::ask);

  SuspendRequest asked({.answer = 5s, .suspend = 30s, .usual = 40ms}, kBegin);
  ASSERT_EQ(asked.on_look(kBegin, kRunning).kind, Kind::ask);
  ASSERT_EQ(asked.on_asked(kBegin, true, "").kind, Kind::wait);
  ASSERT_EQ(asked.on_look(kBegin + 5s + 1ms, paused).kind, Kind::withdraw);
  expect_failed(asked.on_withdrawn(kBegin + 5s + 2ms, true), ErrorCode::timed_out, "xl unpause");
}

// A suspension that we have not asked for is another toolstack's: it is neither used nor ended,
// whether it was there before or came while our request waited for that one's.
TEST_F(XenSuspendRequest, another_toolstack_gets_its_way) {
  expect_failed(request_.on_look(kBegin, kSuspended), ErrorCode::try_again,
                "another toolstack is at work");
  SuspendRequest later({}, kBegin);
  ASSERT_EQ(later.on_look(kBegin, kRunning).kind, Kind::ask);
  ASSERT_EQ(later.on_asked(kBegin, false, "suspend").kind, Kind::wait);
  expect_failed(later.on_look(kBegin + 30ms, kSuspended), ErrorCode::try_again,
                "another toolstack is at work");
}

// libxl reads the node as a number and can bind no channel 0; people read the rest.
TEST(XenSaveGuard, what_the_node_says) {
  EXPECT_EQ(std::atoi(guard_words("web").c_str()), 0);
  EXPECT_NE(guard_words("web").find("understudy unprotect web"), std::string::npos);
}

TEST(XenSaveGuard, a_saving_process_is_known_by_its_arguments) {
  const auto line = [](std::initializer_list<std::string> arguments) {
    std::string text;
    for (const auto& argument : arguments) text += argument + '\0';
    return text;
  };
  const std::string helper = "/usr/lib/xen-4.17/bin/libxl-save-helper";
  EXPECT_EQ(domain_saved_by(line({helper, "--save-domain", "14", "-1", "7", "1", "3", "0"})), 7U);
  EXPECT_FALSE(domain_saved_by(line({helper, "--restore-domain", "14", "-1", "7", "1"})));
  EXPECT_FALSE(domain_saved_by(line({"/bin/sh", "--save-domain", "14", "-1", "7", "1"})));
  EXPECT_FALSE(domain_saved_by(line({helper, "--save-domain", "14", "-1", "seven", "1"})));
  EXPECT_FALSE(domain_saved_by(line({helper, "--save-domain", "14", "-1"})));
  EXPECT_FALSE(domain_saved_by(""));
}

}  // namespace
}  // namespace understudy::xen
