// Watches a domain from its dom0, without a part in what happens to it: the same measure for
// whoever suspends it.
//
//   domain_watch DOMAIN SECONDS [STANDSTILLS]    ends after SECONDS, or after so many standstills
//
// A standstill is the time in which Xen lists the domain as suspended (or paused), looked up every
// five milliseconds: the guest runs not one instruction. Before it lies the time from the
// toolstack's word in xenstore (control/shutdown) to the standstill, in which the guest freezes
// itself. Prints one line of JSON.
#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
#include <xenctrl.h>
#include <xenstore.h>
}

namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point begun, Clock::time_point end = Clock::now()) {
  return std::chrono::duration<double, std::milli>(end - begun).count();
}

void print_list(const char* name, const std::vector<double>& values) {
  std::printf(", \"%s\": [", name);
  for (std::size_t i = 0; i < values.size(); ++i)
    std::printf("%s%.2f", i == 0 ? "" : ", ", values[i]);
  std::printf("]");
}

/// True if somebody has written to the node that we watch.
bool written_to(xs_handle* store) {
  bool written = false;
  while (char** event = xs_check_watch(store)) {
    std::free(event);
    written = true;
  }
  return written;
}

int watch(unsigned domain, double seconds, std::size_t enough) {
  xc_interface* const control = xc_interface_open(nullptr, nullptr, 0);
  xs_handle* const store = xs_open(0);
  if (control == nullptr || store == nullptr) {
    std::perror("domain_watch: Xen's interfaces");
    return 1;
  }
  const std::string path = "/local/domain/" + std::to_string(domain) + "/control/shutdown";
  xs_watch(store, path.c_str(), "suspend");
  // dom0 has one processor here, and understudyd works in real time while the guest stands still:
  // who does not, sees none of it. Two hundred looks a second are what watching may cost.
  sched_param priority = {};
  priority.sched_priority = 1;
  (void)sched_setscheduler(0, SCHED_RR, &priority);

  std::vector<double> suspend_ms;
  std::vector<double> standstill_ms;
  constexpr Clock::time_point never = {};
  Clock::time_point asked_at = never;
  Clock::time_point still_since = never;
  // The guest takes the word away when it has read it: word of that may come late.
  constexpr double late_word_ms = 15;
  auto last_change = Clock::now();
  bool begun_still = false;
  unsigned long looks = 0;
  double longest_look_ms = 0;
  std::uint64_t first_cpu_ns = 0;
  std::uint64_t last_cpu_ns = 0;
  const auto begun = Clock::now();
  auto last_look = begun;
  while (ms_since(begun) < seconds * 1000 && standstill_ms.size() < enough) {
    pollfd event = {xs_fileno(store), POLLIN, 0};
    (void)poll(&event, 1, 5);
    const bool asked = written_to(store) && ms_since(last_change) > late_word_ms;
    xc_domaininfo_t info = {};
    if (xc_domain_getinfolist(control, domain, 1, &info) != 1 || info.domain != domain) {
      std::fprintf(stderr, "domain_watch: domain %u is gone\n", domain);
      return 1;
    }
    const auto now = Clock::now();
    longest_look_ms = std::max(longest_look_ms, ms_since(last_look, now));
    last_look = now;
    const bool still = (info.flags & (XEN_DOMINF_shutdown | XEN_DOMINF_paused)) != 0;
    if (looks++ == 0) {
      first_cpu_ns = info.cpu_time;
      begun_still = still;
    }
    last_cpu_ns = info.cpu_time;
    if (!still) begun_still = false;
    if (begun_still) continue;  // Nobody knows since when.
    if (asked && asked_at == never && still_since == never) asked_at = now;
    if (still && still_since == never) {
      still_since = now;
      if (asked_at != never) suspend_ms.push_back(ms_since(asked_at, now));
      asked_at = never;
    } else if (!still && still_since != never) {
      last_change = now;
      standstill_ms.push_back(ms_since(still_since, now));
      still_since = never;
    }
  }
  std::printf(
      "{\"seconds\": %.3f, \"cpu_seconds\": %.3f, \"looks\": %lu, \"longest_between_looks_ms\": "
      "%.2f",
      ms_since(begun) / 1000, static_cast<double>(last_cpu_ns - first_cpu_ns) / 1e9, looks,
      longest_look_ms);
  print_list("suspend_ms", suspend_ms);
  print_list("standstill_ms", standstill_ms);
  std::printf("}\n");
  xs_close(store);
  xc_interface_close(control);
  return 0;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count < 3) {
    std::fputs("usage: domain_watch DOMAIN SECONDS [STANDSTILLS]\n", stderr);
    return 64;
  }
  return watch(static_cast<unsigned>(std::strtoul(arguments[1], nullptr, 10)),
               std::strtod(arguments[2], nullptr),
               argument_count > 3 ? std::strtoul(arguments[3], nullptr, 10) : 1'000'000);
}
