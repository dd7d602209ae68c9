// The program as a process: Ctrl-C, a full disk, a real terminal, completion in a real bash, the
// manual page.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <fstream>

#include "base/unique_fd.h"
#include "tests/cli/fake_agent.h"

namespace understudy::cli {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;
using Clock = std::chrono::steady_clock;

const std::string program = UNDERSTUDY_PROGRAM;

/// A child on a pseudo-terminal or on a pipe; killed and reaped when it goes.
class Child {
 public:
  enum class On { terminal, pipe };

  Child(const std::vector<std::string>& words, On on) {
    int master = -1;
    int ends[2] = {-1, -1};
    if (on == On::terminal) {
      winsize size{24, 100, 0, 0};
      pid_ = ::forkpty(&master, nullptr, nullptr, &size);
    } else {
      EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
      pid_ = ::fork();
    }
    if (pid_ == 0) {
      if (on == On::pipe) {
        ::dup2(ends[1], STDOUT_FILENO);
        ::dup2(ends[1], STDERR_FILENO);
      }
      ::setenv("TERM", "xterm", 1);
      ::unsetenv("NO_COLOR");
      std::vector<char*> arguments;
      arguments.reserve(words.size() + 1);
      for (const std::string& word : words) {
        arguments.push_back(const_cast<char*>(word.c_str()));
      }
      arguments.push_back(nullptr);
      ::execvp(arguments[0], arguments.data());
      ::_exit(127);
    }
    ::close(ends[1]);
    output_ = UniqueFd(on == On::terminal ? master : ends[0]);
  }

  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Reads until `text` was seen; false after ten seconds or at the end of output.
  bool wait_for(const std::string& text) {
    return read_until([&] { return seen_.find(text) != std::string::npos; });
  }

  /// Reads to the end of output and returns the exit status; -1 if a signal ended it.
  int finish() {
    read_until([] { return false; });
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  void write(const std::string& text) const {
    EXPECT_EQ(::write(output_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void interrupt() const { ::kill(pid_, SIGINT); }
  [[nodiscard]] const std::string& seen() const { return seen_; }

 private:
  template <typename Enough>
  bool read_until(Enough enough) {
    const auto end = Clock::now() + std::chrono::seconds(10);
    while (!enough()) {
      pollfd waiting{output_.get(), POLLIN, 0};
      if (Clock::now() > end || ::poll(&waiting, 1, 100) < 0) {
        return false;
      }
      if (waiting.revents != 0) {
        std::array<char, 4096> chunk{};
        const ssize_t count = ::read(output_.get(), chunk.data(), chunk.size());
        if (count <= 0) {
          return enough();
        }
        seen_.append(chunk.data(), static_cast<std::size_t>(count));
      }
    }
    return true;
  }

  pid_t pid_ = -1;
  UniqueFd output_;
  std::string seen_;
};

FakeAgent::Answer synchronising() {
  return {
      200,
      R"({"name":"web1","role":"primary","state":"synchronising","peer":"hostB","synchronisation":
    {"pages_sent":27000,"pages_total":65536,"bytes_sent":9000000,"rate_bytes_per_second":52000000,"round":1,
     "eta_seconds":4.5}})"};
}

void prepare_synchronisation(FakeAgent& agent) {
  agent.on("POST /v1/domains/web1/protect", {synchronising()});
  agent.on("GET /v1/domains/web1", {synchronising()});
}

TEST(CtrlC, while_protect_waits_leaves_the_work_going_and_says_how_to_watch_it) {
  for (const Child::On on : {Child::On::terminal, Child::On::pipe}) {
    FakeAgent agent;
    prepare_synchronisation(agent);
    Child child({program, "--socket", agent.socket_path(), "protect", "web1", "--to", "hostB"}, on);
    ASSERT_TRUE(child.wait_for("27000 of 65536 pages (41%), 52.0 MB/s, 5 s left")) << child.seen();
    if (on == Child::On::terminal) {
      EXPECT_THAT(child.seen(), HasSubstr("[##"));
      child.write("\x03");
    } else {
      EXPECT_THAT(child.seen(), Not(HasSubstr("\r")));
      child.interrupt();
    }
    EXPECT_EQ(child.finish(), 130);
    EXPECT_THAT(child.seen(), HasSubstr("the synchronisation of web1 goes on"));
    EXPECT_THAT(child.seen(), HasSubstr("understudy status web1 --watch"));
    EXPECT_THAT(agent.requests("POST /v1/domains/web1/unprotect"), testing::IsEmpty());
  }
}

TEST(CtrlC, ends_a_request_to_an_agent_that_hangs_at_once) {
  FakeAgent agent;
  agent.on("POST /v1/domains/web1/protect", {{.silent = true}});
  Child child({program, "--socket", agent.socket_path(), "protect", "web1", "--to", "hostB"},
              Child::On::pipe);
  const auto end = Clock::now() + std::chrono::seconds(10);
  while (agent.requests().empty() && Clock::now() < end) {
    std::this_thread::yield();
  }
  const auto begin = Clock::now();
  child.interrupt();
  EXPECT_EQ(child.finish(), 130);
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5));
  EXPECT_THAT(child.seen(), HasSubstr("Whether protection began is shown by"));
}

TEST(Watching, redraws_one_screen_and_leaves_the_last_view_behind) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {synchronising()});
  Child child({program, "--socket", agent.socket_path(), "status", "web1", "--watch"},
              Child::On::terminal);
  ASSERT_TRUE(child.wait_for("Ctrl-C ends watching")) << child.seen();
  EXPECT_THAT(child.seen(), HasSubstr("\033[?1049h"));
  EXPECT_THAT(child.seen(), HasSubstr("\033[33msynchronising\033[0m"));
  child.write("\x03");
  EXPECT_EQ(child.finish(), 130);
  const std::size_t back = child.seen().find("\033[?1049l");
  ASSERT_NE(back, std::string::npos) << "the terminal is given back";
  EXPECT_THAT(child.seen().substr(back), HasSubstr("synchronising"));
}

TEST(Watching, an_agent_that_goes_away_is_shown_and_waited_for) {
  FakeAgent agent;
  agent.on(
      "GET /v1/domains/web1",
      {synchronising(), {503, R"({"error":{"code":"unavailable","message":"gone for now"}})"}});
  Child child({program, "--socket", agent.socket_path(), "status", "web1", "--watch"},
              Child::On::terminal);
  EXPECT_TRUE(child.wait_for("gone for now")) << child.seen();
  child.write("\x03");
  EXPECT_EQ(child.finish(), 130);
}

TEST(Following, prints_each_event_once_and_goes_on) {
  FakeAgent agent;
  const auto event = [](int sequence) {
    return R"({"sequence":)" + std::to_string(sequence) + R"(,"kind":"k","message":"number )" +
           std::to_string(sequence) + "!\"}";
  };
  agent.on("GET /v1/events?limit=100", {{200, R"({"last":1,"events":[)" + event(1) + "]}"}});
  agent.on(
      "GET /v1/events?limit=1000&after=1",
      {{200, R"({"last":1,"events":[]})"}, {200, R"({"last":2,"events":[)" + event(2) + "]}"}});
  agent.on("GET /v1/events?limit=1000&after=2", {{200, R"({"last":0,"events":[]})"}});
  agent.on("GET /v1/events?limit=1000&after=0",
           {{200, R"({"last":1,"events":[)" + event(1) + "]}"}});
  Child child({program, "--socket", agent.socket_path(), "events", "--follow"}, Child::On::pipe);
  ASSERT_TRUE(child.wait_for("number 2!")) << child.seen();
  ASSERT_TRUE(child.wait_for("counts its events anew")) << child.seen();
  child.interrupt();
  EXPECT_EQ(child.finish(), 130);
  EXPECT_EQ(child.seen().find("number 2!"), child.seen().rfind("number 2!"));
}

TEST(Questions, a_token_typed_at_the_prompt_is_not_echoed) {
  FakeAgent agent;
  agent.on("POST /v1/pair/join", {{201, R"({"peer":"hostA","fingerprint":"SHA256:x"})"}});
  Child child({program, "--socket", agent.socket_path(), "pair", "join"}, Child::On::terminal);
  ASSERT_TRUE(child.wait_for("(not shown): "));
  // The prompt comes before the echo is turned off; the program flushes what was typed in between.
  std::string typed;
  const auto end = Clock::now() + std::chrono::seconds(10);
  while (agent.requests().empty() && Clock::now() < end) {
    if (typed.empty()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      typed = "topsecret\n";
      child.write(typed);
    }
  }
  EXPECT_EQ(child.finish(), 0) << child.seen();
  EXPECT_THAT(child.seen(), Not(HasSubstr("topsecret")));
  EXPECT_THAT(agent.requests(), Contains(R"(POST /v1/pair/join {"token":"topsecret"})"));
}

TEST(Output, that_cannot_be_written_is_not_reported_as_success) {
  Child child({"bash", "-c", program + " help > /dev/full"}, Child::On::pipe);
  EXPECT_EQ(child.finish(), 74);
  EXPECT_THAT(child.seen(), HasSubstr("standard output could not be written"));
}

TEST(Output, no_colour_where_NO_COLOR_is_set) {
  FakeAgent agent;
  agent.on("GET /v1/domains/web1", {synchronising()});
  Child child({"env", "NO_COLOR=1", program, "--socket", agent.socket_path(), "status", "web1"},
              Child::On::terminal);
  EXPECT_EQ(child.finish(), 3);
  EXPECT_THAT(child.seen(), HasSubstr("synchronising"));
  EXPECT_THAT(child.seen(), Not(HasSubstr("\033[")));
}

/// What bash offers at the end of `line`.
std::string completed(const FakeAgent& agent, const std::string& words) {
  const std::string directory = std::filesystem::path(program).parent_path().string();
  const std::string script =
      "set -u; PATH=" + directory + ":$PATH; export UNDERSTUDY_SOCKET=" + agent.socket_path() +
      "; source <(understudy completion bash); COMP_WORDS=(" + words +
      "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _understudy; echo \"${COMPREPLY[*]}\"";
  Child child({"bash", "-c", script}, Child::On::pipe);
  EXPECT_EQ(child.finish(), 0) << child.seen();
  std::string seen = child.seen();
  while (seen.ends_with('\n')) {
    seen.pop_back();
  }
  return seen;
}

TEST(Completion, offers_what_fits_at_the_cursor) {
  FakeAgent agent;
  agent.on("GET /v1/status",
           {{200, R"({"domains":[{"name":"web1"},{"name":"web2"},{"name":"db"}]})"}});
  agent.on("GET /v1/peers", {{200, R"({"peers":[{"name":"hostA"},{"name":"hostB"}]})"}});
  EXPECT_EQ(completed(agent, "understudy prot"), "protect");
  EXPECT_EQ(completed(agent, "understudy pair ''"), "create-token join list remove");
  EXPECT_EQ(completed(agent, "understudy pair j"), "join");
  EXPECT_EQ(completed(agent, "understudy status w"), "web1 web2");
  EXPECT_EQ(completed(agent, "understudy -o json status d"), "db");
  EXPECT_EQ(completed(agent, "understudy status web1 ''"), "") << "one name is enough";
  EXPECT_EQ(completed(agent, "understudy protect web1 --to ''"), "hostA hostB");
  EXPECT_EQ(completed(agent, "understudy protect web1 --to hostB"), "hostB");
  EXPECT_EQ(completed(agent, "understudy protect web1 --to = hostB"), "hostB");
  EXPECT_EQ(completed(agent, "understudy protect web1 --to ="), "hostA hostB");
  EXPECT_EQ(completed(agent, "understudy protect web1 --int"), "--interval");
  EXPECT_EQ(completed(agent, "understudy protect --to hostB w"), "web1 web2");
  EXPECT_EQ(completed(agent, "understudy status -o ''"), "table json");
  EXPECT_EQ(completed(agent, "understudy pair list --output n"), "name");
  EXPECT_EQ(completed(agent, "understudy completion ''"), "bash");
  EXPECT_EQ(completed(agent, "understudy help prom"), "promote");
  EXPECT_EQ(completed(agent, "understudy domain start " + agent.directory().string() + "/age"),
            agent.directory().string() + "/agent.sock");
}

TEST(Completion, is_quiet_without_an_agent) {
  std::string where;
  {
    const FakeAgent agent;
    where = agent.socket_path();
  }
  Child child({"bash", "-c",
               "PATH=" + std::filesystem::path(program).parent_path().string() +
                   ":$PATH; export UNDERSTUDY_SOCKET=" + where +
                   "; source <(understudy completion bash); COMP_WORDS=(understudy status ''); "
                   "COMP_CWORD=2; "
                   "_understudy; echo \"<${COMPREPLY[*]}>\""},
              Child::On::pipe);
  EXPECT_EQ(child.finish(), 0);
  EXPECT_EQ(child.seen(), "<>\n");
}

TEST(ManualPages, are_free_of_warnings) {
  if (::access("/usr/bin/groff", X_OK) != 0) {
    GTEST_SKIP() << "groff is not installed";
  }
  for (const std::string& page :
       {"<(" + program + " help --man)", std::string(MANUAL_DIRECTORY "/understudyd.8"),
        std::string(MANUAL_DIRECTORY "/understudy.toml.5")}) {
    Child child({"bash", "-c", "groff -man -Tutf8 -ww -z " + page}, Child::On::pipe);
    EXPECT_EQ(child.finish(), 0) << page;
    EXPECT_EQ(child.seen(), "") << page;
  }
}

}  // namespace
}  // namespace understudy::cli
