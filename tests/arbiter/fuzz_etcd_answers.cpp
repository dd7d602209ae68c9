// Whatever an arbiter answers: an error or a decision, never a crash, and never a grant out of
// nothing.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "arbiter/etcd_messages.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace etcd = understudy::etcd;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  (void)etcd::lease_answer(body);
  (void)etcd::transaction_answer(body);
  if (const auto read = etcd::read_answer(body)) {
    const auto judged = etcd::judge(read.value(), "hostA", understudy::Generation(2), 0);
    const bool ours = read.value().holding && read.value().holding->claimed &&
                      read.value().holding->holder == "hostA";
    if (judged.judgement == etcd::Judgement::granted && !ours) std::abort();
  }
  return 0;
}
