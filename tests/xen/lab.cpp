#include "tests/xen/lab.h"

#include <unistd.h>

#include <boost/json/parse.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace understudy::scene {
namespace {

namespace json = boost::json;
using std::chrono::seconds;

constexpr const char* kLabName = "test";

std::string program() {
  const char* const other = std::getenv("UNDERSTUDY_LAB_PROGRAM");
  return other != nullptr ? other : UNDERSTUDY_LAB_PROGRAM;
}

}  // namespace

const std::string& Lab::network_namespace() {
  static const std::string name = std::string("us-lab-") + kLabName;
  return name;
}

std::string Lab::obstacle() {
  if (::geteuid() != 0) return "the lab needs root";
  if (::access(program().c_str(), X_OK) != 0) return "there is no " + program();
  return {};
}

Result<std::string> Lab::command(const std::vector<std::string>& arguments,
                                 std::chrono::milliseconds limit) {
  std::vector<std::string> words = {program()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  BOOST_OUTCOME_TRY(const auto output, run_command(words, limit));
  if (output.status != 0) {
    return fail(ErrorCode::failed, "lab {}: status {}: {}{}", fmt::join(arguments, " "),
                output.status, output.out, output.err);
  }
  return output.out;
}

Result<std::string> Lab::exec(const std::string& host, const std::string& shell_command,
                              std::chrono::milliseconds limit) {
  return command({"exec", host, "--", "sh", "-c", shell_command}, limit);
}

Result<void> Lab::up() {
  ::setenv("UNDERSTUDY_LAB", kLabName, 1);
  ::setenv("UNDERSTUDY_BUILD_DIR", UNDERSTUDY_BUILD_DIRECTORY, 1);
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
  // Emulated hosts share this machine with whatever else runs on it, and stand still for seconds
  // now and then: that is no death.
  BOOST_OUTCOME_TRY(exec(host,
                         "sed -i 's/^deadline.*/deadline = \"8s\"/; s/\"info\"/\"trace\"/' "
                         "/etc/understudy/understudy.toml"));
  BOOST_OUTCOME_TRY(command({"agent", host, "start"}));
  const bool answers =
      eventually([&host] { return exec(host, "understudy status || [ $? -lt 64 ]").has_value(); });
  if (!answers) return fail(ErrorCode::timed_out, "the agent of host {} does not answer", host);
  return ok();
}

Result<void> Lab::start_host(const std::string& host) {
  BOOST_OUTCOME_TRY(command({"start", host}, seconds(300)));
  return start_agent(host);
}

Result<void> Lab::create_domain(const std::string& host, const std::string& name,
                                const std::string& address, unsigned vcpus) {
  BOOST_OUTCOME_TRY(
      command({"domain", host, name, "--address", address, "--vcpus", std::to_string(vcpus)}));
  // xl's own watch over a domain may or may not survive its first suspension: no matter then.
  BOOST_OUTCOME_TRY(
      exec(host, "f=/etc/xen/" + name + ".cfg; echo 'on_reboot=\"destroy\"' >> $f; xl create $f",
           seconds(180)));
  // The last port that it opens.
  const bool serves = eventually([&address] {
    return command(
               {"client", "timeout", "5", "bash", "-c", "exec 3<>/dev/tcp/" + address + "/9000"})
        .has_value();
  });
  if (!serves) return fail(ErrorCode::timed_out, "domain {} does not serve", name);
  return ok();
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
  const auto text = exec(host,
                         "xl list | awk 'NR > 1 { print $1, $2 }';"
                         "xenstore-list /local/domain; xenstore-list /vm; xenstore-list /libxl;"
                         "xenstore-list /local/domain/0/backend/vif; ls /sys/class/net");
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
