#include "hypervisor/domain.h"

#include <algorithm>

#include "hypervisor/rehearsal.h"

namespace understudy {

std::uint64_t count_pages(const DirtySet& set) {
  std::uint64_t pages = 0;
  for (const PageRange& range : set) pages += range.count;
  return pages;
}

DirtySet merge(const DirtySet& left, const DirtySet& right) {
  DirtySet merged;
  merged.reserve(left.size() + right.size());
  auto from_left = left.begin();
  auto from_right = right.begin();
  while (from_left != left.end() || from_right != right.end()) {
    const bool take_left = from_right == right.end() ||
                           (from_left != left.end() && from_left->first <= from_right->first);
    const PageRange next = take_left ? *from_left++ : *from_right++;
    if (!merged.empty() && next.first <= merged.back().first + merged.back().count) {
      PageRange& last = merged.back();
      last.count = std::max(last.first + last.count, next.first + next.count) - last.first;
    } else {
      merged.push_back(next);
    }
  }
  return merged;
}

std::string_view to_string(TrackingMethod method) {
  switch (method) {
    case TrackingMethod::pagemap_scan:
      return "pagemap_scan";
    case TrackingMethod::log_dirty:
      return "log_dirty";
    case TrackingMethod::full_compare:
      return "full_compare";
  }
  return "full_compare";
}

std::string_view to_string(Finding::Severity severity) {
  switch (severity) {
    case Finding::Severity::ok:
      return "ok";
    case Finding::Severity::warning:
      return "warning";
    case Finding::Severity::refusal:
      return "refusal";
  }
  return "refusal";
}

std::string_view to_string(DomainExit::Kind kind) {
  switch (kind) {
    case DomainExit::Kind::guest_shutdown:
      return "guest_shutdown";
    case DomainExit::Kind::guest_reset:
      return "guest_reset";
    case DomainExit::Kind::destroyed:
      return "destroyed";
    case DomainExit::Kind::crashed:
      return "crashed";
  }
  return "crashed";
}

Result<void> Standby::attach_outputs() {
  return fail(ErrorCode::unavailable,
              "this hypervisor attaches interfaces when a domain begins to run");
}

Result<std::vector<InputProgress>> Domain::input_progress() {
  return fail(ErrorCode::unavailable,
              "this hypervisor cannot tell which frames have reached the guest");
}

Result<std::vector<UnreadInput>> Domain::take_unread_inputs() {
  return std::vector<UnreadInput>();
}

Task<Result<bool>> Domain::takes_inputs() {
  co_return false;
}

Task<Result<std::unique_ptr<Rehearsal>>> Hypervisor::prepare_rehearsal(DomainConfig /*config*/) {
  co_return fail(ErrorCode::unavailable, "{} domains cannot be rehearsed", name());
}

Task<Result<std::unique_ptr<Domain>>> Hypervisor::find(std::string name) {
  co_return fail(ErrorCode::no_such, "no domain '{}'", name);
}

}  // namespace understudy
