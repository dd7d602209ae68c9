// domain start, domain stop, domain list: machines on this host.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "base/unique_fd.h"
#include "cli/json_view.h"
#include "cli/status_view.h"
#include "cli/verbs_common.h"

namespace understudy::cli {
namespace {

namespace json = boost::json;

/// A little below what the agent takes in one body.
constexpr std::size_t config_bytes_max = std::size_t{512} << 10U;

Result<std::string> file_text(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    return system_error(errno, path);
  }
  std::string text;
  std::array<char, 65536> chunk{};
  while (true) {
    const ssize_t count = ::read(file.get(), chunk.data(), chunk.size());
    if (count < 0) {
      return system_error(errno, path);
    }
    if (count == 0) {
      return text;
    }
    text.append(chunk.data(), static_cast<std::size_t>(count));
    if (text.size() > config_bytes_max) {
      return fail(ErrorCode::config, "{} is longer than {} bytes: that is not a domain's file",
                  path, config_bytes_max);
    }
  }
}

Result<int> start(Session& session, const Arguments& arguments) {
  const std::string path = arguments.text("FILE");
  std::string text;
  std::error_code error;
  // The agent has another working directory: messages and records name the whole path.
  std::string name = std::filesystem::absolute(path, error).lexically_normal().string();
  if (path == "-") {
    BOOST_OUTCOME_TRY(text, session.terminal.read_all(config_bytes_max));
    name = (std::filesystem::current_path(error) / "stdin").string();
  } else {
    BOOST_OUTCOME_TRY(text, file_text(path));
  }
  BOOST_OUTCOME_TRY(const Reply reply,
                    session.client.post("/v1/domains", {{"config_toml", text}, {"file", name}},
                                        Patience::asks_other_host));
  if (wants_json(arguments)) {
    return print_json(session, reply);
  }
  const std::string accelerator = text_at(reply.json, "accelerator");
  const std::string domain = text_at(reply.json, "name");
  session.terminal.talk(fmt::format(
      "{} runs ({}{}); protect it with 'understudy protect {} --to HOST'\n", domain,
      text_at(reply.json, "hypervisor"), accelerator.empty() ? "" : ", " + accelerator, domain));
  return 0;
}

Result<int> stop(Session& session, const Arguments& arguments) {
  const std::string name = arguments.text("NAME");
  const bool force = arguments.has("--force");
  BOOST_OUTCOME_TRY(const std::string target, domain_target(name, force ? "?force=true" : ""));
  if (arguments.has("--dry-run")) {
    BOOST_OUTCOME_TRY(const std::string plain, domain_target(name));
    BOOST_OUTCOME_TRY(const Reply reply, session.client.get(plain));
    const std::string peer = text_at(reply.json, "peer");
    session.terminal.talk(fmt::format("would stop {} ({}, {}){}\n", name,
                                      text_at(reply.json, "role"), text_at(reply.json, "state"),
                                      peer.empty() ? "" : " and tell " + peer));
    return 0;
  }
  if (force) {
    BOOST_OUTCOME_TRY(confirm(
        session, arguments,
        {.explanation = fmt::format(
             "Stopping {0} by force does not wait for the other host to agree. If this is the "
             "primary and "
             "the backup\ncannot be told, the backup may promote {0}; if this is the backup, {0} "
             "is no longer protected.\n",
             name),
         .question = fmt::format("Stop {} by force?", name),
         .answer = "yes"}));
  }
  BOOST_OUTCOME_TRY(session.client.remove(target, Patience::asks_other_host));
  session.terminal.talk(fmt::format("{} is stopped\n", name));
  return 0;
}

Result<int> list(Session& session, const Arguments& arguments) {
  BOOST_OUTCOME_TRY(const Reply reply, session.client.get("/v1/status"));
  if (wants_json(arguments)) {
    return print_json(session, reply);
  }
  if (arguments.text("--output") == "name") {
    for (const json::object* domain : objects_at(reply.json, "domains")) {
      session.terminal.out(text_at(*domain, "name") + "\n");
    }
    return 0;
  }
  session.terminal.out(domain_list(reply.json, session.terminal));
  return 0;
}

}  // namespace

CommandFamily domain_verbs() {
  std::vector<Option> stop_options = danger_options();
  stop_options.insert(stop_options.begin(),
                      {.flags = "--force",
                       .value = "",
                       .help = "Stop it even where the backup cannot be told, or where this is the "
                               "backup. Asks first"});
  return {
      "Domains",
      {
          {.path = "domain start",
           .summary = "Start a domain from its file",
           .description =
               "The file is TOML: name, memory, vcpus, kernel and initrd or image, network "
               "interfaces; see understudy.toml(5), DOMAIN FILES. The domain runs "
               "unprotected until 'understudy protect'.",
           .positionals = {{.name = "FILE",
                            .help = "The domain's file; '-' reads it from standard input",
                            .completes = Completes::file}},
           .options = {output_option()},
           .exits = {{78, "the file is wrong; line and key are named"},
                     {105, "the file, or something that it names, does not exist"},
                     {108, "a domain of that name runs already"}},
           .examples = {{"understudy domain start /etc/understudy/domains/web1.toml",
                         "Start web1"}},
           .run = start},
          {.path = "domain stop",
           .summary = "Stop a domain",
           .description =
               "Ends the domain as if its power was cut; shut down the guest first if it has "
               "something to save. The backup drops its image. A stop always ends: a hypervisor "
               "that "
               "does not listen is killed.",
           .positionals = {domain_positional()},
           .options = stop_options,
           .exits = {{107,
                      "the backup cannot be told, or this is the backup: --force does it anyway"}},
           .examples = {{"understudy domain stop web1", "Stop web1"}},
           .run = stop},
          {.path = "domain list",
           .summary = "List the domains and images of this host",
           .description = "One line for each. 'understudy status' shows how they are.",
           .options = {output_option(true)},
           .examples = {{"understudy domain list -o name", "The names alone, for a script"}},
           .run = list},
      }};
}

}  // namespace understudy::cli
