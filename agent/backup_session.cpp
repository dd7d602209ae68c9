#include "agent/backup_session.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/json.hpp>
#include <cmath>

#include "agent/renewal_policy.h"
#include "agent/replay_options.h"
#include "base/fault_point.h"
#include "base/run_on.h"
#include "checkpoint/records.h"
#include "netbuffer/announce.h"

namespace understudy {
namespace {

using transport::FrameType;

Instant now() {
  return std::chrono::steady_clock::now();
}

// After the first round: switches and neighbours that missed it get these.
constexpr unsigned kAnnouncementRounds = 4;
// Of frames that wait while pages are written; beyond it the primary waits.
constexpr std::size_t kInboxBytesMax = std::size_t{32} << 20;
constexpr auto kAnnouncementInterval = std::chrono::milliseconds(100);

Promotion::Config promotion_config(const HostServices& services, const DomainRecord& record) {
  Promotion::Config config;
  config.domain = record.name;
  config.silence = services.config.deadline;
  return config;
}

std::string_view in_words(Promotion::Refusal refusal) {
  switch (refusal) {
    case Promotion::Refusal::image_incomplete:
      return "the image is not complete: there is no consistent state to run";
    case Promotion::Refusal::already_promoted:
      return "it is promoted already, or is about to be";
    case Promotion::Refusal::nothing_held:
      return "no image is held here";
    case Promotion::Refusal::forbidden:
      return "automatic promotion is switched off";
    case Promotion::Refusal::not_authorised:
      return "the arbiter did not grant it";
  }
  return "refused";
}

void report_replay(EventLog& events, const std::string& domain,
                   const replay::Replayer::Report& report) {
  using Event = replay::Replayer::Event;
  const std::string_view word = replay::to_string(report.event);
  switch (report.event) {
    case Event::not_waited_for:
    case Event::order_given_up:
    case Event::order_complete:
      spdlog::info("domain={} replay event={} flow=\"{}\" position={}", domain, word, report.flow,
                   report.position);
      return;
    case Event::datagram_differs:
      events.record(Severity::warning, domain, std::string(word),
                    fmt::format("{}: an answer that contradicts the one at log position {} was "
                                "dropped",
                                report.flow, report.position));
      return;
    default:
      events.record(Severity::warning, domain, std::string(word),
                    fmt::format("{}: what was released at log position {} was not made again, "
                                "stream offset {}",
                                report.flow, report.position, report.offset),
                    {{"position", report.position.value}, {"offset", report.offset}});
  }
}

}  // namespace

boost::json::object PromotionRecord::to_json(const std::string& domain) const {
  const std::array<std::pair<std::string_view, std::optional<Instant>>, 10> named = {{
      {"last_heartbeat", timeline.last_sign_of_life},
      {"dead", timeline.asked},
      {"decided", timeline.decided},
      {"generation_stored", timeline.generation_persisted},
      {"last_epoch_applied", timeline.last_epoch_applied},
      {"resumed", timeline.domain_resumed},
      {"announced", timeline.announced},
      {"announcements_done", timeline.done},
      {"live", replay ? replay->live : std::nullopt},
      {"replayed", replay ? replay->ended : std::nullopt},
  }};
  std::vector<std::pair<std::string_view, Instant>> reached;
  for (const auto& [name, moment] : named) {
    if (moment) reached.emplace_back(name, *moment);
  }
  std::ranges::stable_sort(reached, {}, [](const auto& phase) { return phase.second; });
  const auto ms_between = [](Instant from, Instant to) {
    return std::round(std::chrono::duration<double, std::micro>(to - from).count()) / 1000.0;
  };
  boost::json::array phases;
  for (const auto& [name, moment] : reached) {
    const auto wall = wall_clock + std::chrono::duration_cast<std::chrono::system_clock::duration>(
                                       moment - monotonic);
    phases.push_back({{"name", name},
                      {"at", rfc3339(wall)},
                      {"since_start_ms", ms_between(reached.front().second, moment)}});
  }
  boost::json::object json = {{"domain", domain},
                              {"generation", generation.value},
                              {"outcome", outcome},
                              {"cause", cause},
                              {"phases", std::move(phases)}};
  if (!message.empty()) json["message"] = message;
  if (replay) {
    boost::json::object told = {
        {"covered_ms", static_cast<double>(replay->covered.count()) / 1000.0},
        {"inputs", replay->inputs},
        {"flows_diverged", replay->flows_diverged}};
    // From when the guest ran: before, it could not take an input.
    if (replay->live && timeline.domain_resumed)
      told["replay_ms"] = ms_between(*timeline.domain_resumed, *replay->live);
    if (replay->ended && timeline.domain_resumed)
      told["last_flow_ms"] = ms_between(*timeline.domain_resumed, *replay->ended);
    json["replay"] = std::move(told);
  }
  if (timeline.decided) {
    json["detect_ms"] =
        ms_between(timeline.last_sign_of_life.value_or(*timeline.decided), *timeline.decided);
    if (timeline.domain_resumed)
      json["promote_ms"] = ms_between(*timeline.decided, *timeline.domain_resumed);
    // But for the way of the word, which no clock of one host can tell.
    if (handed_over() && timeline.domain_resumed) {
      json["stood_ms"] = static_cast<double>(stood.count()) / 1000.0 +
                         ms_between(*timeline.decided, *timeline.domain_resumed);
    }
  }
  return json;
}

BackupSession::BackupSession(const HostServices& services, std::shared_ptr<const void> owner,
                             DomainRecord& record, std::unique_ptr<Standby> standby,
                             std::unique_ptr<BackupImage> image, EndHandler on_end)
    : services_(services),
      owner_(std::move(owner)),
      record_(record),
      standby_(std::move(standby)),
      image_(std::move(image)),
      decisions_(ProtectionId(record.protection), record.generation),
      log_(ProtectionId(record.protection), record.generation, {}),
      promotion_(promotion_config(services, record), decisions_, services.arbiter),
      on_end_(std::move(on_end)),
      outputs_(standby_->outputs().begin(), standby_->outputs().end()),
      wake_(services.executor) {}

BackupSession::~BackupSession() = default;

Result<std::shared_ptr<BackupSession>> BackupSession::create(const HostServices& services,
                                                             std::shared_ptr<const void> owner,
                                                             DomainRecord& record,
                                                             std::unique_ptr<Standby> standby,
                                                             EndHandler on_end) {
  BOOST_OUTCOME_TRY(auto image, BackupImage::create(standby->memory(), standby->memory_file()));
  std::shared_ptr<BackupSession> session(new BackupSession(
      services, std::move(owner), record, std::move(standby), std::move(image), std::move(on_end)));
  boost::asio::co_spawn(services.executor, watch_standby(session),
                        [](const std::exception_ptr& failure) {
                          if (failure) std::rethrow_exception(failure);
                        });
  return session;
}

// The standby may be killed by somebody else. That must not be found out at promotion only: the
// primary would count on it until then.
Task<void> BackupSession::watch_standby(std::weak_ptr<BackupSession> session) {
  auto held = session.lock();
  if (held == nullptr) co_return;
  auto waiting = held->standby_->wait_for_exit();
  held.reset();
  const DomainExit exit = co_await std::move(waiting);
  held = session.lock();
  if (held == nullptr || held->ended_ || held->promoting()) co_return;
  if (exit.kind == DomainExit::Kind::destroyed) co_return;  // By us.
  co_await held->image_lost(exit.description);
}

// As after a restart of this agent: nothing is held, and the primary, which is not told to speak,
// copies again.
Task<void> BackupSession::image_lost(std::string why) {
  services_.events.record(
      Severity::critical, record_.name, "image_lost",
      fmt::format("the domain that held the image is gone ({}): its primary has to copy again",
                  why),
      {{"peer", record_.peer}});
  co_await wait_for_image();
  if (ended_ || promoting()) co_return;
  if (link_ != nullptr) link_->close();
  co_await standby_->discard();
  finish(BackupEnd::discarded, nullptr);
}

bool BackupSession::promoting() const {
  return decisions_.state() == EpochBackup::State::promoting ||
         decisions_.state() == EpochBackup::State::promoted;
}

// --- checkpoints ---

Task<void> BackupSession::serve(std::shared_ptr<transport::Link> link) {
  const auto self = shared_from_this();
  if (link_ != nullptr) link_->close();
  link_ = link;
  const auto inbox = std::make_shared<Inbox>();
  boost::asio::co_spawn(
      services_.executor, [self, link, inbox] { return self->empty(link, inbox); },
      [](const std::exception_ptr& failure) {
        if (failure) std::rethrow_exception(failure);
      });
  co_await fill(link, inbox);
  const auto taken = [&inbox] { return inbox->taken; };
  co_await inbox->changed.wait_until(taken, Instant::max());
  const std::string problem = inbox->problem;
  // A newer link may have taken this one's place: then the state is the newer one's business.
  if (link_ != link) co_return;
  link_.reset();
  if (!ended_ && !promoting()) {
    // Before the farewell, which takes its time: a new link may begin a checkpoint meanwhile.
    last_problem_ = problem;
    (void)co_await carry_out(decisions_.on_link_down());
  }
  const std::string farewell = problem.empty() ? "not a backup any more" : problem;
  co_await link->say_goodbye(farewell, std::chrono::milliseconds(200));
}

// Reads the link; what is of the log is dealt with at once.
Task<void> BackupSession::fill(std::shared_ptr<transport::Link> link,
                               std::shared_ptr<Inbox> inbox) {
  const auto room = [this, &link, &inbox] {
    return inbox->bytes < kInboxBytesMax || inbox->taken || !serves(link);
  };
  while (serves(link) && !inbox->taken) {
    auto frame = co_await link->receive();
    if (!frame) {
      if (inbox->problem.empty()) inbox->problem = frame.error().message();
      break;
    }
    if (!serves(link)) break;
    if (frame.value().type == FrameType::input_log) {
      if (auto taken = take_log(frame.value().payload); !taken) {
        inbox->problem = taken.error().message();
        spdlog::warn("domain={} peer={} log refused: {}", record_.name, record_.peer,
                     inbox->problem);
        break;
      }
      continue;
    }
    inbox->bytes += frame.value().payload.size();
    inbox->frames.push_back(std::move(frame.value()));
    inbox->changed.notify_all();
    co_await inbox->changed.wait_until(room, Instant::max());
  }
  inbox->closed = true;
  inbox->changed.notify_all();
}

// Takes the rest in, one frame after another.
Task<void> BackupSession::empty(std::shared_ptr<transport::Link> link,
                                std::shared_ptr<Inbox> inbox) {
  const auto self = shared_from_this();
  const auto something = [&inbox] { return inbox->closed || !inbox->frames.empty(); };
  for (;;) {
    co_await inbox->changed.wait_until(something, Instant::max());
    // What a broken link left is of no use: what it belongs to will never be whole.
    if (inbox->closed || !serves(link)) break;
    transport::Frame frame = std::move(inbox->frames.front());
    inbox->frames.pop_front();
    inbox->bytes -= frame.payload.size();
    inbox->changed.notify_all();
    auto taken = co_await take(std::move(frame));
    if (!taken) {
      inbox->problem = taken.error().message();
      spdlog::warn("domain={} peer={} checkpoint refused: {}", record_.name, record_.peer,
                   inbox->problem);
      link->close();
      break;
    }
  }
  inbox->taken = true;
  inbox->changed.notify_all();
}

Result<void> BackupSession::take_log(std::span<const std::byte> payload) {
  BOOST_OUTCOME_TRY(auto batch, replay::decode_log_batch(payload));
  log_ends_ = now();
  for (const auto& record : batch.records) {
    if (const auto* mark = std::get_if<replay::MarkRecord>(&record.content))
      marks_[mark->epoch] = log_ends_;
  }
  BOOST_OUTCOME_TRY(const auto acknowledged, log_.on_batch(std::move(batch)));
  decisions_.on_log_acknowledged(log_ends_);
  return link_->send_urgent(FrameType::log_acknowledgement, replay::encode(acknowledged));
}

Task<Result<void>> BackupSession::take(transport::Frame frame) {
  switch (frame.type) {
    case FrameType::checkpoint_begin: {
      BOOST_OUTCOME_CO_TRY(const auto begin, decode_checkpoint_begin(frame.payload));
      BOOST_OUTCOME_CO_TRY(co_await carry_out(
          decisions_.on_begin(begin.protection, begin.generation, begin.epoch, begin.base)));
      if (!begin.complete_copy()) co_return image_->begin(begin);
      // Gives back the memory of the old image, which takes time, and takes away what an apply()
      // under way works on.
      const auto start_over = [this, &begin] { return image_->begin(begin); };
      co_return co_await work_on_image(start_over);
    }
    case FrameType::page_batch:
      co_return image_->add(std::move(frame.payload));
    case FrameType::device_state:
      co_return image_->device_state(frame.payload);
    case FrameType::checkpoint_end: {
      BOOST_OUTCOME_CO_TRY(auto end, decode_checkpoint_end(frame.payload));
      const EpochId epoch = end.epoch;
      BOOST_OUTCOME_CO_TRY(image_->complete(std::move(end)));
      fault_point("checkpoint.whole");
      const auto addresses = image_->committed_addresses();
      addresses_.assign(addresses.begin(), addresses.end());
      co_return co_await carry_out(decisions_.on_whole(now(), epoch));
    }
    case FrameType::protection_end: {
      BOOST_OUTCOME_CO_TRY(const auto end, decode_protection_end(frame.payload));
      if (end.kind == ProtectionEnd::Kind::domain_died) {
        services_.events.record(Severity::critical, record_.name, "primary_domain_died",
                                fmt::format("it died on {}: {}", record_.peer, end.reason),
                                {{"peer", record_.peer}});
        co_return promote(Promotion::Cause::primary_dead, "domain_died", now());
      }
      if (end.kind == ProtectionEnd::Kind::yours) co_return take_over(end);
      co_return co_await carry_out(
          decisions_.on_unprotect(end.protection, decisions_.generation()));
    }
    case FrameType::protection_options: {
      BOOST_OUTCOME_CO_TRY(auto options, decode_protection_options(frame.payload));
      BOOST_OUTCOME_CO_TRY(replay_options_from(options.replay));
      record_.mode = std::move(options.mode);
      record_.interval_us = options.interval_us;
      record_.replay = std::move(options.replay);
      if (!options.renewal.is_null()) {
        BOOST_OUTCOME_CO_TRY(renewal_policy_from(options.renewal));
        record_.renewal = std::move(options.renewal);
      }
      co_return services_.store.save(record_);
    }
    default:
      break;
  }
  co_return fail(ErrorCode::protocol, "{} sent an unexpected {}", record_.peer,
                 transport::to_string(frame.type));
}

// The primary's word counts for the epoch at which its guest stands still, and no other.
Result<void> BackupSession::take_over(const ProtectionEnd& word) {
  if (word.protection != decisions_.protection() || word.generation != decisions_.generation() ||
      word.epoch != decisions_.committed()) {
    return fail(ErrorCode::protocol,
                "{} hands over epoch {} of protection {}, but epoch {} of {} is held here",
                record_.peer, word.epoch, word.protection, decisions_.committed(),
                decisions_.protection());
  }
  fault_point("move.heard");
  stood_ = std::chrono::microseconds(word.stood_us);
  next_backup_ = word.next_backup;
  return promote(Promotion::Cause::handed_over, "handed_over", now());
}

// All of them even where one fails: what is committed has to be applied, whoever hears of it.
Task<Result<void>> BackupSession::carry_out(EpochBackup::Actions actions) {
  Result<void> result = ok();
  for (const auto& action : actions) {
    if (const auto* acknowledge = std::get_if<EpochBackup::Acknowledge>(&action)) {
      log_.on_committed(acknowledge->epoch);
      if (const auto mark = marks_.find(acknowledge->epoch); mark != marks_.end()) {
        log_begins_ = mark->second;
        marks_.erase(marks_.begin(), std::next(mark));
      }
      if (const auto link = link_; link != nullptr) {
        auto octets = encode(CheckpointAcknowledged{.protection = acknowledge->protection,
                                                    .generation = acknowledge->generation,
                                                    .epoch = acknowledge->epoch});
        auto sent = co_await link->send(FrameType::acknowledgement, {}, std::move(octets));
        if (!sent && result) result = sent.error();
        fault_point("checkpoint.acknowledged");
      }
    } else if (const auto* wanted = std::get_if<EpochBackup::Apply>(&action)) {
      co_await apply(wanted->epoch);
    } else if (std::holds_alternative<EpochBackup::DropStaged>(action)) {
      image_->drop();
    } else if (std::holds_alternative<EpochBackup::DiscardImage>(action)) {
      co_await discard("unprotected");
    } else if (const auto* refuse = std::get_if<EpochBackup::Refuse>(&action)) {
      if (result) {
        result = fail(ErrorCode::protocol, "epoch {} refused: {}", refuse->epoch,
                      to_string(refuse->reason));
      }
    } else if (const auto* event = std::get_if<EpochBackup::Report>(&action)) {
      report(*event);
    }
  }
  co_return result;
}

void BackupSession::report(const EpochBackup::Report& report) {
  const auto tell = [&](Severity severity, std::string message) {
    services_.events.record(severity, record_.name, std::string(to_string(report.event)),
                            std::move(message),
                            {{"peer", record_.peer}, {"epoch", report.epoch.value}});
  };
  switch (report.event) {
    case EpochBackup::Event::image_ready:
      return tell(Severity::info,
                  fmt::format("the image of epoch {} is whole: it can take over from {}",
                              report.epoch, record_.peer));
    case EpochBackup::Event::image_void:
      return tell(
          Severity::info,
          fmt::format("a complete copy comes in from {}: nothing to promote until it is whole",
                      record_.peer));
    case EpochBackup::Event::image_outdated:
      return tell(Severity::warning,
                  fmt::format("{} went on alone: the image here is out of date and is dropped",
                              record_.peer));
    case EpochBackup::Event::checkpoint_dropped:
      return tell(
          Severity::info,
          fmt::format("the link to {} broke within epoch {}: what had come of it is dropped",
                      record_.peer, report.epoch));
  }
}

// One after another: whoever discards or resumes the image waits for the end, too.
template <typename Work>
Task<std::invoke_result_t<Work&>> BackupSession::work_on_image(Work& work) {
  co_await wait_for_image();
  image_at_work_ = true;
  auto result = co_await run_on(services_.workers, work);
  image_at_work_ = false;
  image_idle_.notify_all();
  co_return result;
}

Task<void> BackupSession::wait_for_image() {
  const auto idle = [this] { return !image_at_work_; };
  co_await image_idle_.wait_until(idle, Instant::max());
}

Task<void> BackupSession::apply(EpochId epoch) {
  const auto write_pages = [this] { return image_->apply(); };
  (void)co_await work_on_image(write_pages);
  ++checkpoints_;
  fault_point("checkpoint.applied");
  (void)co_await carry_out(decisions_.on_applied(epoch));
  co_await carry_out_promotion(promotion_.on_applied(now()));
}

Task<Result<BackupSession::ImageCopy>> BackupSession::copy_image_to(Rehearsal& rehearsal) {
  const auto self = shared_from_this();
  co_await wait_for_image();
  if (ended_ || promoting() || decisions_.state() != EpochBackup::State::ready ||
      !image_->consistent())
    co_return fail(ErrorCode::try_again, "there is no whole image of {} now", record_.name);
  ImageCopy copy;
  copy.epoch = image_->committed();
  copy.generation = record_.generation;
  copy.device_state.assign(image_->committed_device_state().begin(),
                           image_->committed_device_state().end());
  copy.addresses = decode_addresses(addresses_);
  const auto given_up = std::make_shared<std::atomic<bool>>(false);
  copy_given_up_ = given_up;
  // What is whole is applied first, so that memory and device state are of one epoch; what comes
  // in meanwhile waits for its turn.
  const auto work = [this, &rehearsal, &copy, given_up] {
    while (image_->applied() < copy.epoch) image_->apply();
    return copy_image(standby_->memory(), standby_->memory_file(), rehearsal.memory(),
                      rehearsal.memory_file(), *given_up);
  };
  image_at_work_ = true;
  const Result<std::uint64_t> copied = co_await run_on(services_.workers, work);
  image_at_work_ = false;
  image_idle_.notify_all();
  copy_given_up_.reset();
  if (!copied) co_return copied.error();
  copy.bytes = copied.value();
  co_return copy;
}

// --- promotion ---

Result<void> BackupSession::promote(Promotion::Cause cause, std::string_view cause_word,
                                    Instant last_sign_of_life) {
  primary_heard_ = std::max(primary_heard_, last_sign_of_life);
  return begin_promotion(promotion_.on_wanted(now(), cause, last_sign_of_life), cause_word);
}

Result<void> BackupSession::on_arbiter(const Arbiter::Claim& claim, Arbiter::Answer answer) {
  if (ended_ || promotion_.claim() != claim) return ok();
  if (promotion_.phase() != Promotion::Phase::asking) {
    if (answer == Arbiter::Answer::granted) {
      services_.events.record(
          Severity::warning, record_.name, "grant_unused",
          fmt::format("the arbiter granted generation {} when {} was back: until it is protected "
                      "anew, {} may not go solo by itself",
                      claim.generation, record_.peer, record_.peer),
          {{"peer", record_.peer}});
    }
    return ok();
  }
  auto actions = promotion_.on_arbiter(now(), answer, primary_heard_);
  if (actions.empty()) return ok();
  return begin_promotion(std::move(actions), cause_word_);
}

Result<void> BackupSession::begin_promotion(Promotion::Actions actions,
                                            std::string_view cause_word) {
  for (const auto& action : actions) {
    if (const auto* refused = std::get_if<Promotion::Refused>(&action)) {
      const bool by_arbiter = refused->refusal == Promotion::Refusal::not_authorised;
      const std::string why =
          by_arbiter && promotion_.claim() ? services_.arbiter.explain(*promotion_.claim()) : "";
      return fail(by_arbiter ? ErrorCode::not_authorized : ErrorCode::failed,
                  "{} is not promoted: {}{}{}", record_.name, in_words(refused->refusal),
                  why.empty() ? "" : ": ", why);
    }
  }
  if (promotion_.phase() == Promotion::Phase::asking) {
    if (std::exchange(cause_word_, std::string(cause_word)).empty() || actions.empty()) {
      services_.events.record(
          Severity::critical, record_.name, "asking_arbiter",
          fmt::format("{} is silent ({}): asking {} for the right to run the domain", record_.peer,
                      cause_word, services_.arbiter.name()),
          {{"peer", record_.peer}, {"generation", promotion_.claim()->generation.value}});
    }
    return ok();
  }
  if (copy_given_up_) copy_given_up_->store(true);
  log_.on_promote_decided();
  promotion_record_ = std::make_shared<PromotionRecord>();
  promotion_record_->generation = promotion_.generation();
  promotion_record_->cause = cause_word;
  promotion_record_->stood = stood_;
  promotion_record_->next_backup = next_backup_;
  promotion_record_->outcome = "in_progress";
  promotion_record_->timeline = promotion_.timeline();
  promotion_record_->wall_clock = std::chrono::system_clock::now();
  promotion_record_->monotonic = now();
  const bool planned = promotion_record_->handed_over();
  services_.events.record(planned ? Severity::info : Severity::critical, record_.name,
                          "promotion_started",
                          fmt::format("taking over from {} ({}), epoch {}", record_.peer,
                                      cause_word, decisions_.committed()),
                          {{"peer", record_.peer},
                           {"epoch", decisions_.committed().value},
                           {"generation", promotion_.generation().value}});
  const auto self = shared_from_this();
  boost::asio::co_spawn(
      services_.executor,
      [self, actions = std::move(actions)]() mutable -> Task<void> {
        co_await self->carry_out_promotion(std::move(actions));
        co_await self->watch_promotion();
      },
      [](const std::exception_ptr& failure) {
        if (failure) std::rethrow_exception(failure);
      });
  return ok();
}

// Time is an input of the promotion, too: it waits for the end of the primary's lease.
Task<void> BackupSession::watch_promotion() {
  while (!ended_ && promotion_.next_deadline() != kNever) {
    co_await wake_.wait_until(promotion_.next_deadline());
    if (!ended_) co_await carry_out_promotion(promotion_.on_tick(now()));
  }
}

Task<void> BackupSession::carry_out_promotion(Promotion::Actions actions) {
  const auto self = shared_from_this();
  for (const auto& action : actions) {
    if (const auto* persist = std::get_if<Promotion::PersistGeneration>(&action)) {
      fault_point("promote.decided");
      // What a crash from here on leaves is a promotion that may have spoken (Agent::take_up).
      record_.role = Role::promoting;
      record_.generation = persist->generation;
      if (link_ != nullptr) link_->close();
      // Synced to disk on a worker: the last epoch may be applied meanwhile.
      const DomainRecord record = record_;
      const auto store = [this, &record] { return services_.store.save(record); };
      const auto stored = co_await run_on(services_.workers, store);
      if (!stored) {
        promotion_failed(stored.error().in("the raised generation could not be stored").message());
      } else {
        fault_point("promote.stored");
        co_await carry_out_promotion(promotion_.on_generation_persisted(now()));
      }
    } else if (std::holds_alternative<Promotion::ResumeDomain>(action)) {
      co_await resume();
    } else if (std::holds_alternative<Promotion::Announce>(action)) {
      co_await announce_rounds();
    }
    // OpenGate: a domain without a backup has no gate; its interfaces carry frames since it was
    // resumed.
  }
  if (promotion_record_) promotion_record_->timeline = promotion_.timeline();
}

Task<void> BackupSession::resume() {
  co_await wait_for_image();
  auto settled = image_->settle();
  if (!settled) {
    promotion_failed(settled.error().message());
    co_return;
  }
  const std::vector<std::byte> device_state(image_->committed_device_state().begin(),
                                            image_->committed_device_state().end());
  // Output was released on the strength of the log: without it nothing may run.
  if (auto prepared = prepare_replay(); !prepared) {
    promotion_failed(prepared.error().in("the input log cannot be replayed").message());
    co_return;
  }
  fault_point("promote.applied");
  auto domain = co_await standby_->promote(device_state);
  if (!domain) {
    promotion_failed(domain.error().message());
    co_return;
  }
  promoted_ = std::move(domain.value());
  if (replay_gate_ != nullptr) replay_gate_->begin_replay(promoted_->activity());
  co_await carry_out_promotion(promotion_.on_resumed(now()));
}

// From here on nothing reaches the guest, and nothing of it the network, but by the replayer.
Result<void> BackupSession::prepare_replay() {
  // A promotion that failed may be tried again, and then needs what the first attempt took.
  if (!replayable_) replayable_ = log_.take();
  if (replay_gate_ != nullptr) {
    return fail(ErrorCode::failed, "an earlier attempt has begun to give it to a guest");
  }
  auto& replayable = *replayable_;
  BOOST_OUTCOME_TRY(auto translator, replay::Translator::decode(replayable.translations));
  if (replayable.records.empty() && translator.empty()) return ok();
  BOOST_OUTCOME_TRY(const ReplayOptions options, replay_options_from(record_.replay));
  BOOST_OUTCOME_TRY(replay_gate_, ReplayGate::close(services_.executor, record_.name, outputs_));
  // Behind the fence: nothing but what the replayer gives comes to them.
  BOOST_OUTCOME_TRY(standby_->attach_outputs());
  replay::Replayer::Config config;
  config.on_divergence = options.on_divergence;
  const auto record = promotion_record_;
  record->replay = ReplayRecord{};
  record->replay->begun = now();
  record->replay->covered =
      std::chrono::duration_cast<std::chrono::microseconds>(log_ends_ - log_begins_);
  const std::weak_ptr<ReplayGate> weak = replay_gate_;
  replay_gate_->lead(
      replay::Replayer(config, now(), std::move(replayable.records), std::move(translator)),
      {.report =
           [&events = services_.events, name = record_.name,
            record](const replay::Replayer::Report& told) {
             if (told.event == replay::Replayer::Event::order_complete)
               record->replay->live = now();
             report_replay(events, name, told);
           },
       .replayed =
           [&events = services_.events, name = record_.name, record, weak] {
             const auto gate = weak.lock();
             if (gate == nullptr || !gate->replayer()) return;
             const auto& statistics = gate->replayer()->statistics();
             record->replay->ended = now();
             record->replay->inputs = statistics.inputs_fed;
             record->replay->flows_diverged = statistics.flows_diverged;
             events.record(Severity::info, name, "replayed",
                           fmt::format("{} inputs replayed in {:.1f} ms, {} flows diverged",
                                       statistics.inputs_fed,
                                       std::chrono::duration<double, std::milli>(
                                           *record->replay->ended - record->replay->begun)
                                           .count(),
                                       statistics.flows_diverged));
           }});
  return ok();
}

Task<void> BackupSession::announce_rounds() {
  const auto self = shared_from_this();
  // The first round at once and within the promotion; the others while the domain already serves.
  const auto learnt = decode_addresses(addresses_);
  std::vector<Announcement> announcements;
  for (std::size_t index = 0; index < outputs_.size(); ++index) {
    // Where we carry the frames, the guest is behind our port.
    const std::string device =
        replay_gate_ != nullptr ? replay_gate_->device(index) : outputs_[index].device;
    announcements.push_back({device, outputs_[index].mac,
                             index < learnt.size() ? learnt[index] : std::vector<IpAddress>()});
  }
  auto first = co_await announce(announcements, {.rounds = 1});
  if (!first)
    spdlog::warn("domain={} announcing its new place failed: {}", record_.name,
                 first.error().message());
  promotion_.on_announced(now());
  promotion_record_->timeline = promotion_.timeline();
  promotion_record_->outcome = "promoted";
  const auto timeline = promotion_record_->to_json(record_.name);
  const bool planned = promotion_record_->handed_over();
  services_.events.record(planned ? Severity::info : Severity::warning, record_.name,
                          planned ? "moved" : "promoted",
                          fmt::format("runs here since epoch {}, generation {}",
                                      decisions_.committed(), promotion_.generation()),
                          timeline);
  finish(BackupEnd::promoted, std::move(promoted_));
  boost::asio::co_spawn(
      services_.executor,
      [announcements = std::move(announcements)]() -> Task<void> {
        co_await sleep_for(kAnnouncementInterval);
        (void)co_await announce(announcements,
                                {.rounds = kAnnouncementRounds, .interval = kAnnouncementInterval});
      },
      boost::asio::detached);
}

void BackupSession::promotion_failed(std::string message) {
  promotion_.on_failed(now());
  last_problem_ = message;
  if (promotion_record_) {
    promotion_record_->outcome = "failed";
    promotion_record_->message = message;
    promotion_record_->timeline = promotion_.timeline();
  }
  services_.events.record(Severity::critical, record_.name, "promotion_failed", std::move(message),
                          {{"peer", record_.peer}});
}

Result<void> BackupSession::on_primary_heard(PeerRole role) {
  if (ended_) return ok();
  auto actions = promotion_.on_primary_heard(now(), role);
  if (actions.empty()) return ok();
  return begin_promotion(std::move(actions), "primary_gone");
}

void BackupSession::on_peer_reachable(std::string_view reason, bool reachable) {
  peer_reason_ = reason;
  peer_reachable_ = reachable;
}

void BackupSession::on_peer_generation(Generation generation) {
  if (ended_ || generation <= decisions_.generation()) return;
  const auto self = shared_from_this();
  boost::asio::co_spawn(
      services_.executor,
      [self, generation]() -> Task<void> {
        (void)co_await self->carry_out(self->decisions_.on_peer_generation(generation));
      },
      boost::asio::detached);
}

Task<void> BackupSession::discard(std::string reason) {
  const auto self = shared_from_this();
  if (ended_) co_return;
  co_await wait_for_image();
  co_await standby_->discard();
  const ProtectionEnd end{ProtectionEnd::Kind::discarded, decisions_.protection(),
                          std::move(reason)};
  if (const auto link = link_; link != nullptr) {
    (void)co_await link->send(FrameType::protection_end, {}, encode(end));
    (void)co_await link->flush();
  }
  finish(BackupEnd::discarded, nullptr);
}

void BackupSession::finish(BackupEnd end, std::unique_ptr<Domain> promoted) {
  if (ended_) return;
  ended_ = true;
  if (promotion_.phase() == Promotion::Phase::asking) services_.arbiter.forget(*promotion_.claim());
  wake_.notify();
  boost::asio::post(services_.executor, [self = shared_from_this(), end,
                                         domain = std::move(promoted)]() mutable {
    if (self->on_end_)
      std::exchange(self->on_end_, nullptr)(end, std::move(domain), std::move(self->replay_gate_));
  });
}

void BackupSession::add_status(boost::json::object& status, Conditions& conditions) const {
  using State = EpochBackup::State;
  const State state = decisions_.state();
  const bool failed = promotion_.phase() == Promotion::Phase::failed;
  std::string_view word = "image_incomplete";
  if (state == State::ready) word = "standby";
  if (promoting()) word = failed ? "failed" : "promoting";
  status["state"] = word;
  status["mode"] = record_.mode;
  status["peer"] = record_.peer;
  status["committed_epoch"] = decisions_.committed().value;
  status["checkpoints"] = checkpoints_;
  if (state == State::incomplete && image_->receiving()) {
    status["synchronisation"] = {{"pages_sent", image_->pages_received()},
                                 {"pages_total", image_->receiving_record().dirty_pages_expected}};
  }
  const bool ready = state == State::ready;
  conditions.set("Running", false, promoting() ? "Promoting" : "HeldAsImage",
                 failed ? "promotion failed: " + last_problem_
                        : fmt::format("runs on {}; its image is held here", record_.peer));
  conditions.set("Protected", ready, ready ? "Standby" : "ImageIncomplete",
                 ready ? fmt::format("epoch {} can take over", decisions_.committed())
                       : "the image is not whole: nothing can take over yet");
  conditions.set("OutputFlowing", false, "HeldAsImage", "an image does not speak");
  conditions.set(
      "ImageComplete", ready || promoting(),
      ready || promoting() ? "Committed" : (link_ != nullptr ? "Synchronising" : "ImageIncomplete"),
      ready ? fmt::format("epoch {} is whole", decisions_.committed()) : last_problem_);
  if (promotion_.phase() == Promotion::Phase::asking && promotion_.claim()) {
    const std::string why = services_.arbiter.explain(*promotion_.claim());
    conditions.set("RightToRun", false, "AskingArbiter",
                   fmt::format("{} has not granted generation {} yet{}{}", services_.arbiter.name(),
                               promotion_.claim()->generation, why.empty() ? "" : ": ", why));
  } else {
    conditions.remove("RightToRun");
  }
  status["arbiter"] = services_.arbiter.name();
  conditions.set("PrimaryReachable", peer_reachable_, peer_reason_,
                 fmt::format("heartbeats of {}", record_.peer));
}

}  // namespace understudy
