#include "tests/xen/lab.h"

#include <boost/json/parse.hpp>
#include <cstdlib>
#include <thread>

namespace understudy::scene {
namespace {

namespace json = boost::json;
using std::chrono::seconds;

// Emulated hosts share this machine with whatever else runs on it, and stand still for seconds now
// and then: that is no death.
constexpr auto kDeadline = std::chrono::seconds(8);

}  // namespace

const LabProgram& Lab::program() {
  static const LabProgram one = [] {
    const char* const other = std::getenv("UNDERSTUDY_LAB_PROGRAM");
    return LabProgram(other != nullptr ? other : UNDERSTUDY_LAB_PROGRAM, UNDERSTUDY_BUILD_DIRECTORY,
                      LabProgram::chosen_name("test"));
  }();
  return one;
}

Result<void> Lab::up() {
  BOOST_OUTCOME_TRY(command({"up"}, seconds(600)));
  for (const char* host : {"A", "B"}) {
    BOOST_OUTCOME_TRY(start_agent(host));
  }
  BOOST_OUTCOME_TRY(command({"pair"}));
  return ok();
}

void Lab::down() {
  (void)command({"down"});
}

Result<void> Lab::start_agent(const std::string& host) {
  return program().start_agent(host, kDeadline, "trace");
}

Result<void> Lab::start_host(const std::string& host) {
  BOOST_OUTCOME_TRY(command({"start", host}, seconds(300)));
  return start_agent(host);
}

bool Lab::serves(const std::string& address) {
  // The last port that it opens.
  return command({"client", "timeout", "5", "bash", "-c", "exec 3<>/dev/tcp/" + address + "/9000"})
      .has_value();
}

Result<void> Lab::create_domain(const std::string& host, const std::string& name,
                                const std::string& address, unsigned vcpus,
                                const std::string& settings) {
  BOOST_OUTCOME_TRY(
      command({"domain", host, name, "--address", address, "--vcpus", std::to_string(vcpus)}));
  const std::string file = "/etc/xen/" + name + ".cfg";
  BOOST_OUTCOME_TRY(exec(host, fmt::format("printf '%s\\n' '{}' | tr ';' '\\n' >>{}; xl create {}",
                                           settings, file, file)));
  if (!eventually([&address] { return serves(address); }, seconds(180)))
    return fail(ErrorCode::timed_out, "domain {} does not serve", name);
  return ok();
}

Result<void> Lab::type(const std::string& host, const std::string& name, const std::string& line) {
  BOOST_OUTCOME_TRY(
      exec(host, fmt::format("printf '%s\\n' '{}' >$(xenstore-read /local/domain/$(xl domid "
                             "{})/console/tty)",
                             line, name)));
  return ok();
}

bool Lab::event(const std::string& host, const std::string& name, const std::string& words) {
  return exec(host, fmt::format("understudy events {} | grep -F -q '{}'", name, words)).has_value();
}

json::object Lab::status(const std::string& host, const std::string& name) {
  // Its exit status tells the state, too: not an error here.
  const auto text = exec(host, "understudy status " + name + " -o json || true");
  if (!text) return {};
  boost::system::error_code error;
  const json::value value = json::parse(text.value(), error);
  return !error && value.is_object() ? value.get_object() : json::object();
}

std::string Lab::state(const std::string& host, const std::string& name) {
  const auto domain = status(host, name);
  const auto* state = domain.if_contains("state");
  return state != nullptr && state->is_string() ? std::string(state->get_string()) : "";
}

Result<void> Lab::protect(const std::string& host, const std::string& name, const std::string& to) {
  BOOST_OUTCOME_TRY(
      exec(host, "understudy protect " + name + " --to " + to + " --interval 200ms", seconds(240)));
  return ok();
}

std::string Lab::traces(const std::string& host) {
  const auto text = exec(
      host,
      "xl list | awk 'NR > 1 { print $1, $2 }';"
      // Names only: values count and tick by themselves. The first domain of all leaves some
      // empty folders behind.
      "xenstore-ls -f | sed 's/ = .*//' | grep -Ev '^/(tool/xenstored.*|libxl|vm|local/domain/0/"
      "(backend|device|device-model)(/[a-z]+)?)$';"
      // dom0's own ones stay what they are; those between domains come and go with them.
      "echo event channels between domains: $(/usr/lib/xen-4.17/bin/lsevtchn 0 | grep -c "
      "'Interdomain\\|Waiting');"
      "ls /sys/class/net; ls /var/lib/xen; ls -A /run/understudy | grep -v ^placeholder-;"
      "echo device models: $(pidof qemu-system-i386 | wc -w)");
  return text ? text.value() : text.error().message();
}

bool Lab::eventually(const std::function<bool()>& holds, seconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  return true;
}

}  // namespace understudy::scene
