#include "tests/end_to_end/protected_guest.h"

#include <boost/json.hpp>
#include <iostream>
#include <thread>

namespace understudy::scene {

using namespace std::chrono_literals;
namespace json = boost::json;

std::optional<bool> condition_of(const json::object& domain, std::string_view type) {
  const json::value* conditions = domain.if_contains("conditions");
  if (conditions == nullptr || !conditions->is_array()) {
    return std::nullopt;
  }
  for (const json::value& entry : conditions->get_array()) {
    if (entry.is_object() && text_at(entry.get_object(), "type") == type) {
      const json::value* status = entry.get_object().if_contains("status");
      return status != nullptr && status->is_bool() ? std::optional(status->get_bool())
                                                    : std::nullopt;
    }
  }
  return std::nullopt;
}

std::string reason_at(const json::object& domain, std::string_view type) {
  const json::value* conditions = domain.if_contains("conditions");
  if (conditions == nullptr || !conditions->is_array()) {
    return "";
  }
  for (const json::value& entry : conditions->get_array()) {
    if (entry.is_object() && text_at(entry.get_object(), "type") == type) {
      return text_at(entry.get_object(), "reason");
    }
  }
  return "";
}

void ProtectedGuest::set_the_stage(SceneOptions options) {
  auto built = Scene::build(std::move(options));
  ASSERT_OK(built);
  scene = std::move(built.value());
  auto capture = VoiceCapture::start(scene->client_namespace());
  ASSERT_OK(capture);
  voices = std::move(capture.value());
  ASSERT_OK(scene->start_guest());
  make_clients();
}

void ProtectedGuest::open(SceneOptions options) {
  ASSERT_NO_FATAL_FAILURE(set_the_stage(std::move(options)));
  for (Traffic* traffic : all()) {
    traffic->start();
  }
  for (Traffic* traffic : all()) {
    ASSERT_OK(traffic->wait_for_progress(30s));
  }
}

void ProtectedGuest::make_clients() {
  ledger = std::make_unique<LedgerTraffic>(scene->client_options(4));
  others.push_back(std::make_unique<EchoTraffic>(scene->client_options(2)));
  others.push_back(std::make_unique<StreamTraffic>(scene->client_options(1), 500'000));
  ClientOptions version_6 = scene->client_options(1);
  version_6.address = guest_address_6;
  others.push_back(std::make_unique<StreamTraffic>(version_6, 100'000));
}

void ProtectedGuest::play(SceneOptions options, const Protection& protection) {
  ASSERT_NO_FATAL_FAILURE(open(std::move(options)));
  ASSERT_OK(scene->protect(protection));
  // Some epochs under traffic, so that a fault meets the machinery at work.
  const auto protected_at = Clock::now();
  for (Traffic* traffic : all()) {
    ASSERT_OK(traffic->wait_for_progress(30s, protected_at + 500ms));
  }
}

void ProtectedGuest::TearDown() {
  if (HasFailure() && scene) {
    if (voices) {
      std::cerr << "--- voices on the wire\n" << voices->story();
    }
    std::cerr << scene->logs();
  }
  // A guest that is gone would make every client wait for its full patience.
  for (Traffic* traffic : all()) {
    traffic->abandon();
  }
}

void ProtectedGuest::mark(const Instant& moment) {
  for (Traffic* traffic : all()) {
    traffic->mark(moment);
  }
}

void ProtectedGuest::expect_everyone_goes_on(Clock::time_point since,
                                             std::chrono::milliseconds limit) {
  for (Traffic* traffic : all()) {
    auto progress = traffic->wait_for_progress(limit, since);
    EXPECT_TRUE(progress) << progress.error().message();
  }
}

void ProtectedGuest::expect_nothing_lost() {
  for (Traffic* traffic : all()) {
    traffic->stop();
    double worst_ms = 0;
    for (const ConnectionReport& report : traffic->report()) {
      EXPECT_TRUE(report.survived)
          << report.kind << " connection " << report.index << ": " << report.failure;
      EXPECT_EQ(report.bytes_wrong, 0U) << report.kind << " connection " << report.index;
      EXPECT_GT(report.bytes_verified, 0U) << report.kind << " connection " << report.index;
      worst_ms = std::max(worst_ms, report.outage_ms.value_or(0));
    }
    std::cout << traffic->kind() << ": " << traffic->report().size()
              << " connections, outage at worst " << static_cast<int>(worst_ms) << " ms\n";
  }
  if (!ledger) {
    return;
  }
  auto audit = ledger->audit();
  ASSERT_OK(audit);
  // Whatever the story: who has been followed by another does not speak again, unless the story
  // says so (expect_voices).
  if (expected_voices_.empty()) {
    EXPECT_TRUE(voices->turns() == "A" || voices->turns() == "AB") << voices->story();
  }
  EXPECT_TRUE(audit.value().clean()) << audit.value().first_fault;
  EXPECT_EQ(audit.value().lost, 0U);
  EXPECT_GT(audit.value().acknowledged, 0U);
}

void ProtectedGuest::expect_voices(const std::string& turns) {
  expected_voices_ = turns;
  EXPECT_EQ(voices->turns(), turns) << voices->story();
}

bool ProtectedGuest::silent_for(std::chrono::milliseconds time) {
  const auto bytes = [this] {
    std::uint64_t sum = 0;
    for (const Traffic* traffic : all()) {
      sum += traffic->bytes_verified();
    }
    return sum;
  };
  const std::uint64_t before = bytes();
  std::this_thread::sleep_for(time);
  return bytes() == before;
}

std::vector<Traffic*> ProtectedGuest::all() const {
  std::vector<Traffic*> everyone;
  if (ledger) {
    everyone.push_back(ledger.get());
  }
  for (const auto& traffic : others) {
    everyone.push_back(traffic.get());
  }
  return everyone;
}

}  // namespace understudy::scene
