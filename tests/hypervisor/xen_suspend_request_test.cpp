// A guest that is asked to suspend, and what it, an operator or another toolstack may do meanwhile.
// Goal: each of them has the outcome that docs/xen.md states. Method: looks at a guest as it might
// be, at times as they might pass; a real guest that refuses is not to be had at will. Untested
// here: two toolstacks that ask within the same moment, which nobody can tell apart.
#include <gtest/gtest.h>

#include "hypervisor/xen/suspend_request.h"

namespace understudy::xen {
namespace {

using namespace std::chrono_literals;
using Kind = SuspendRequest::Kind;

const GuestSight kRunning{};
const GuestSight kSuspended{.suspended = true, .dying = false, .ended = {}};

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
  expect_failed(request_.on_look(kBegin + 1ms, {false, false, "rebooted"}), ErrorCode::failed,
                "the guest rebooted instead of suspending");
  SuspendRequest crash({}, kBegin);
  expect_failed(crash.on_look(kBegin, {false, false, "crashed"}), ErrorCode::failed, "crashed");
  SuspendRequest destroyed({}, kBegin);
  expect_failed(destroyed.on_look(kBegin, {false, true, {}}), ErrorCode::failed, "was destroyed");
}

// What an operator has asked for and the guest has not read yet is not overwritten.
TEST_F(XenSuspendRequest, an_operators_request_comes_first) {
  ASSERT_EQ(request_.on_look(kBegin, kRunning).kind, Kind::ask);
  EXPECT_EQ(request_.on_asked(kBegin, false, "reboot").kind, Kind::wait);
  ASSERT_EQ(request_.on_look(kBegin + 5s + 1ms, kRunning).kind, Kind::ask);
  expect_failed(request_.on_asked(kBegin + 5s + 1ms, false, "reboot"), ErrorCode::try_again,
                "another request (reboot)");
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

}  // namespace
}  // namespace understudy::xen
