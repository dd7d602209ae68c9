// One request at a time works on a domain: part of the agent's own files, of no use to others.
#pragma once

#include "agent/agent.h"

namespace understudy {

class Agent::Claim {
 public:
  explicit Claim(Entry& entry) : entry_(entry.busy ? nullptr : &entry) {
    if (entry_ != nullptr) entry_->busy = true;
  }
  ~Claim() { release(); }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  [[nodiscard]] bool valid() const { return entry_ != nullptr; }
  /// Lets go early: the entry is about to be erased.
  void release() {
    if (entry_ != nullptr) entry_->busy = false;
    entry_ = nullptr;
  }
  static Error refused(const std::string& name) {
    return fail(ErrorCode::try_again, "another request is at work on {}", name);
  }

 private:
  Entry* entry_;
};

}  // namespace understudy
