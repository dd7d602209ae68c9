#include "tests/scene/lab_program.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <cstdlib>

#include "tests/scene/process.h"

namespace understudy::scene {

LabProgram::LabProgram(std::filesystem::path program, std::filesystem::path build_directory,
                       std::string name)
    : program_(std::move(program)),
      build_directory_(std::move(build_directory)),
      name_(std::move(name)) {}

std::string LabProgram::chosen_name(std::string usual) {
  const char* const chosen = std::getenv("UNDERSTUDY_LAB");
  return chosen != nullptr && *chosen != 0 ? chosen : std::move(usual);
}

std::string LabProgram::obstacle() const {
  if (::geteuid() != 0) return "the lab needs root";
  if (::access(program_.c_str(), X_OK) != 0) return "there is no " + program_.string();
  return {};
}

Result<std::string> LabProgram::run(const std::vector<std::string>& arguments,
                                    std::chrono::milliseconds limit) const {
  std::vector<std::string> words = {"env", "UNDERSTUDY_LAB=" + name_,
                                    "UNDERSTUDY_BUILD_DIR=" + build_directory_.string(),
                                    program_.string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  BOOST_OUTCOME_TRY(auto output, run_command(words, limit));
  if (output.status != 0) {
    return fail(ErrorCode::failed, "lab {}: status {}: {}{}", fmt::join(arguments, " "),
                output.status, output.err, output.out);
  }
  return std::move(output.out);
}

Result<std::string> LabProgram::exec(const std::string& host, const std::string& shell_command,
                                     std::chrono::milliseconds limit) const {
  return run({"exec", host, "--", "sh", "-c", shell_command}, limit);
}

Result<boost::json::value> LabProgram::ask(const std::string& host,
                                           const std::string& shell_command,
                                           std::chrono::milliseconds limit) const {
  BOOST_OUTCOME_TRY(const std::string text, exec(host, shell_command, limit));
  boost::system::error_code error;
  boost::json::value value = boost::json::parse(text, error);
  if (error) return fail(ErrorCode::bad_data, "'{}' gave no JSON: {}", shell_command, text);
  return value;
}

Result<void> LabProgram::start_agent(const std::string& host, std::chrono::milliseconds deadline,
                                     const std::string& log_level) const {
  // Each heartbeat costs an emulated host some two milliseconds of its processor.
  BOOST_OUTCOME_TRY(exec(host, fmt::format("sed -i 's/^deadline.*/deadline = \"{}ms\"/; "
                                           "s/^heartbeat_interval.*/heartbeat_interval = "
                                           "\"{}ms\"/; "
                                           "s/^level.*/level = \"{}\"/' "
                                           "/etc/understudy/understudy.toml",
                                           deadline.count(), deadline.count() / 8, log_level)));
  // It waits until the agent answers.
  BOOST_OUTCOME_TRY(run({"agent", host, "start"}));
  return ok();
}

}  // namespace understudy::scene
