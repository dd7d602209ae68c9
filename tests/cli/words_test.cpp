// What needs no agent: durations, tables, the command line, help, progress.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <boost/json/parse.hpp>
#include <set>

#include "cli/command.h"
#include "cli/duration.h"
#include "cli/help.h"
#include "cli/parse.h"
#include "cli/progress.h"
#include "cli/status_view.h"
#include "cli/table.h"
#include "tests/cli/command_run.h"

namespace understudy::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr auto us = [](long long count) { return Microseconds(count); };

TEST(Durations, are_a_number_with_a_unit) {
  EXPECT_EQ(parse_duration("25ms").value(), us(25'000));
  EXPECT_EQ(parse_duration("2s").value(), us(2'000'000));
  EXPECT_EQ(parse_duration("100us").value(), us(100));
  EXPECT_EQ(parse_duration("100\u00b5s").value(), us(100));
  EXPECT_EQ(parse_duration("1.5s").value(), us(1'500'000));
  EXPECT_EQ(parse_duration("10min").value(), us(600'000'000));
  EXPECT_EQ(parse_duration("1h").value(), us(3'600'000'000));
}

TEST(Durations, say_what_is_wrong_with_them) {
  const auto message = [](std::string_view text) { return parse_duration(text).error().message(); };
  EXPECT_THAT(message("25"), HasSubstr("no unit: write 25ms"));
  EXPECT_THAT(message(""), HasSubstr("number and a unit"));
  EXPECT_THAT(message("ms"), HasSubstr("number and a unit"));
  EXPECT_THAT(message("-5ms"), HasSubstr("number and a unit"));
  EXPECT_THAT(message("25 ms"), HasSubstr("unknown unit ' ms'"));
  EXPECT_THAT(message("25sec"), HasSubstr("unknown unit 'sec'"));
  EXPECT_THAT(message("1.2.3s"), HasSubstr("'1.2.3' is not a number"));
  EXPECT_THAT(message("0.5us"), HasSubstr("finer than a microsecond"));
  EXPECT_THAT(message("99999999999999999999999h"), HasSubstr("too long"));
  EXPECT_EQ(parse_duration("25").error().code(), ErrorCode::usage);
}

TEST(Durations, outside_their_range_name_the_option_and_the_range) {
  const auto wrong = parse_duration_between("--interval", "1h", us(1000), us(10'000'000));
  EXPECT_EQ(wrong.error().message(), "--interval: 1h is out of range: from 1 ms to 10 s");
}

TEST(Durations, of_any_text_never_crash_and_whole_microseconds_survive) {
  rc::check("any text", [](const std::string& text) { (void)parse_duration(text); });
  rc::check("microseconds", [] {
    const auto count = *rc::gen::inRange<long long>(0, 3'600'000'000'000);
    RC_ASSERT(parse_duration(fmt::format("{}us", count)).value().count() == count);
  });
}

TEST(Durations, are_written_short) {
  EXPECT_EQ(format_duration(us(0)), "0 us");
  EXPECT_EQ(format_duration(us(25'000)), "25 ms");
  EXPECT_EQ(format_duration(us(1'500'000)), "1.5 s");
  EXPECT_EQ(format_duration(us(999'960)), "1 s");
  EXPECT_EQ(format_duration(us(59'990'000)), "1 min");
  EXPECT_EQ(format_duration(us(7'200'000'000)), "2 h");
}

TEST(Tables, are_aligned_and_have_nothing_behind_the_last_column) {
  MemoryTerminal memory;
  Table table({"NAME", "STATE"});
  table.add({{"web1"}, {"protected"}});
  table.add({{"d\u00fcrer-long"}, {""}});
  EXPECT_EQ(table.render(memory.terminal()),
            "NAME        STATE\n"
            "web1        protected\n"
            "d\u00fcrer-long  -\n");
}

TEST(Tables, with_colour_keep_their_columns) {
  MemoryTerminal plain;
  MemoryTerminal coloured("", {.out_is_terminal = true, .colour = true});
  Table table({"A", "B"});
  table.add({{"x", Colour::good}, {"y"}});
  const std::string text = table.render(coloured.terminal());
  EXPECT_THAT(text, HasSubstr("\033[32mx\033[0m  y"));
  EXPECT_EQ(display_width(text), display_width(table.render(plain.terminal())));
}

TEST(Text, of_other_hosts_cannot_steer_the_terminal) {
  EXPECT_EQ(printable("a\033[2Jb\x07\nc"), "a?[2Jb? c");
  EXPECT_EQ(printable("\xc2\x9b"), "?");        // the one-character form of ESC [
  EXPECT_EQ(printable("\xff\xc0\xaf"), "???");  // not UTF-8
  EXPECT_EQ(printable("gr\u00fc\u00df \u2192"), "gr\u00fc\u00df \u2192");
  rc::check("nothing below a blank is left", [](const std::string& text) {
    for (const char letter : printable(text)) {
      RC_ASSERT(static_cast<unsigned char>(letter) >= 0x20 && letter != 0x7F);
    }
  });
}

TEST(Text, is_cut_to_columns_with_its_colours_closed) {
  EXPECT_EQ(cut_to_width("abcdef", 3), "abc");
  EXPECT_EQ(cut_to_width("abc", 3), "abc");
  EXPECT_EQ(cut_to_width("\033[32mabc\033[0mdef", 2), "\033[32mab\033[0m");
  EXPECT_EQ(cut_to_width("\u00e4\u00f6\u00fc", 2), "\u00e4\u00f6");
}

TEST(CommandLine, a_misspelt_verb_is_answered_with_the_right_one) {
  EXPECT_EQ(run({"protcet", "web1"}).talk,
            "understudy: there is no command 'protcet': did you mean 'protect'?\n");
  EXPECT_THAT(run({"pair", "jion"}).talk, HasSubstr("did you mean 'pair join'?"));
  EXPECT_THAT(run({"stats"}).talk, HasSubstr("did you mean 'status'?"));
  EXPECT_THAT(run({"list"}).talk, HasSubstr("'pair list', 'domain list' or 'hooks list'"));
  EXPECT_THAT(run({"prot"}).talk, HasSubstr("did you mean 'protect'?"));
  EXPECT_THAT(run({"xyzzy"}).talk, HasSubstr("'understudy help' lists them"));
  EXPECT_EQ(run({"protcet", "web1"}).status, 64);
  EXPECT_EQ(run({"protcet", "web1"}).out, "");
}

TEST(CommandLine, a_misspelt_option_is_answered_with_the_right_one) {
  EXPECT_EQ(run({"protect", "web1", "--to", "hostB", "--intervall", "25ms"}).talk,
            "understudy: 'protect' has no option '--intervall': did you mean '--interval'?\n");
  EXPECT_THAT(run({"--sokcet", "x", "status"}).talk, HasSubstr("did you mean '--socket'?"));
  EXPECT_THAT(run({"status", "--wacth"}).talk, HasSubstr("did you mean '--watch'?"));
}

TEST(CommandLine, what_is_missing_or_too_much_is_named) {
  EXPECT_THAT(run({"protect", "web1"}).talk, HasSubstr("'protect' needs --to HOST"));
  EXPECT_THAT(run({"protect"}).talk, HasSubstr("'protect' needs NAME"));
  EXPECT_THAT(run({"status", "web1", "web2"}).talk, HasSubstr("takes no further word 'web2'"));
  EXPECT_THAT(run({"protect", "web1", "--to"}).talk, HasSubstr("--to"));
  EXPECT_THAT(run({"protect", "web1", "--to", "a", "--to", "b"}).talk,
              HasSubstr("--to is given twice"));
  EXPECT_THAT(run({"status", "-o", "xml"}).talk,
              HasSubstr("--output cannot be 'xml': use 'table' or 'json'"));
  EXPECT_THAT(run({"protect", "web1", "--to", "b", "--interval", "25"}).talk,
              HasSubstr("--interval: '25' has no unit"));
  EXPECT_THAT(run({"protect", "a/b", "--to", "c"}).talk, HasSubstr("'a/b' is not a name"));
  EXPECT_THAT(run({"protect", "..", "--to", "c"}).talk, HasSubstr("'..' is not a name"));
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"protect", "web1"}, {"status", "web1", "web2"}, {"pair"}, {}}) {
    EXPECT_EQ(run(words).status, 64);
    EXPECT_EQ(run(words).out, "") << "talk belongs on stderr";
  }
}

TEST(CommandLine, a_domain_may_be_called_like_a_verb) {
  const auto parsed = parse_command_line({"status", "protect"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed.value().command->path, "status");
  EXPECT_EQ(parsed.value().arguments.text("NAME"), "protect");
  EXPECT_EQ(parse_command_line({"status", "status"}).value().arguments.text("NAME"), "status");
}

TEST(CommandLine, global_options_stand_anywhere) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"--socket", "/s", "pair", "list"},
        {"pair", "--socket", "/s", "list"},
        {"pair", "list", "--socket=/s"}}) {
    const auto parsed = parse_command_line(words);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed.value().command->path, "pair list");
    EXPECT_EQ(parsed.value().arguments.text("--socket"), "/s");
  }
}

TEST(CommandLine, of_any_words_never_crashes) {
  const std::vector<std::string> words = {"pair",    "join", "status",    "-",     "--",
                                          "-o",      "json", "--output=", "",      "--to",
                                          "protect", "=",    "-h",        "-x",    "-wo",
                                          "web1",    "help", "--wait",    "[a,b]", "%%",
                                          "'",       "{}"};
  rc::check("any words", [&] {
    const auto line = *rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(words));
    (void)parse_command_line(line);
  });
}

TEST(CommandLine, the_nearest_word_wins) {
  EXPECT_THAT(nearest("stauts", {"status", "start", "set"}), ElementsAre("status"));
  EXPECT_THAT(nearest("zzz", {"status", "set"}), ElementsAre());
}

TEST(Help, of_every_command_has_an_example_that_parses) {
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      ASSERT_FALSE(command.examples.empty()) << command.path;
      EXPECT_FALSE(command.summary.ends_with('.')) << command.path;
      for (const Example& example : command.examples) {
        // The example up to a pipe or a redirection is a command line of this very program.
        std::vector<std::string> words;
        std::string rest =
            example.line.starts_with("source <(") ? example.line.substr(9) : example.line;
        rest = rest.substr(0, rest.find_first_of("|<>)"));
        std::istringstream stream(rest);
        for (std::string word; stream >> word;) {
          words.push_back(word);
        }
        ASSERT_EQ(words.front(), "understudy") << example.line;
        words.erase(words.begin());
        const auto parsed = parse_command_line(words);
        ASSERT_TRUE(parsed) << example.line << ": " << parsed.error().message();
        EXPECT_EQ(parsed.value().command, &command) << example.line;
      }
    }
  }
}

TEST(Help, fits_into_eighty_columns) {
  std::vector<std::string> texts = {overview()};
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      texts.push_back(command_help(command));
    }
  }
  for (const std::string& text : texts) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      EXPECT_TRUE(display_width(line) <= 80 || line.starts_with("      understudy")) << line;
    }
  }
}

TEST(Help, is_data_on_stdout_however_it_is_asked_for) {
  const Outcome by_word = run({"help", "protect"});
  EXPECT_EQ(by_word.status, 0);
  EXPECT_THAT(by_word.out, HasSubstr("Usage: understudy protect NAME --to HOST"));
  EXPECT_THAT(by_word.out, HasSubstr("Examples"));
  EXPECT_EQ(run({"protect", "--help"}).out, by_word.out);
  EXPECT_EQ(run({"protect", "-h", "web1"}).out, by_word.out);
  EXPECT_THAT(run({"help"}).out, HasSubstr("protect"));
  EXPECT_THAT(run({"--help"}).out, HasSubstr("protect"));
  EXPECT_THAT(run({"help", "pair"}).out, HasSubstr("pair join"));
  EXPECT_THAT(run({"help", "pair", "join"}).out, HasSubstr("Usage: understudy pair join"));
  EXPECT_THAT(run({"help", "exit-status"}).out, HasSubstr("105"));
  EXPECT_THAT(run({"help", "protcet"}).talk, HasSubstr("did you mean 'protect'?"));
  EXPECT_EQ(run({"--version"}).out, "understudy " UNDERSTUDY_VERSION "\n");
}

TEST(Help, the_manual_page_names_every_command_option_and_status) {
  const std::string page = manual_page();
  const auto escaped = [](std::string text) {
    for (std::size_t at = text.find('-'); at != std::string::npos; at = text.find('-', at + 2)) {
      text.insert(at, "\\");
    }
    return text;
  };
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      EXPECT_THAT(page, HasSubstr(".SS \"" + escaped("understudy " + command.path) + "\""));
      for (const Option& option : command.options) {
        EXPECT_THAT(page, HasSubstr(escaped(option.name())));
      }
    }
  }
  for (const ExitMeaning& exit : common_exits()) {
    EXPECT_THAT(page, HasSubstr(fmt::format(".B {}\n", exit.status)));
  }
}

TEST(Help, the_exit_statuses_are_those_of_the_error_codes) {
  std::set<int> documented;
  for (const ExitMeaning& exit : common_exits()) {
    EXPECT_TRUE(documented.insert(exit.status).second) << exit.status << " twice";
  }
  for (const int code : {1, 64, 65, 69, 70, 71, 74, 75, 76, 77, 78, 105, 106, 107, 108, 124}) {
    EXPECT_TRUE(documented.contains(code)) << code;
  }
}

Progress half_way() {
  return {.pages_sent = 32768,
          .pages_total = 65536,
          .bytes_sent = 9e6,
          .rate_bytes_per_second = 52e6,
          .round = 1,
          .eta_seconds = 4.5};
}

TEST(ProgressBars, show_round_share_rate_and_time_left) {
  EXPECT_EQ(progress_text(half_way()), "round 1, 32768 of 65536 pages (50%), 52.0 MB/s, 5 s left");
  EXPECT_EQ(
      progress_bar("web1", half_way(), 90),
      "web1 [############.............] round 1, 32768 of 65536 pages (50%), 52.0 MB/s, 5 s left");
}

TEST(ProgressBars, fit_into_any_width) {
  for (std::size_t columns = 0; columns < 200; ++columns) {
    EXPECT_LE(display_width(progress_bar("web1", half_way(), columns)), columns);
  }
}

TEST(ProgressBars, survive_figures_that_make_no_sense) {
  for (const char* text :
       {R"({})", R"({"pages_sent":5,"pages_total":0})", R"({"pages_sent":9,"pages_total":3})",
        R"({"pages_sent":-9,"pages_total":3,"eta_seconds":-1})",
        R"({"eta_seconds":1e300,"rate_bytes_per_second":1e300})", R"({"pages_sent":"many"})"}) {
    const Progress progress = Progress::from_json(boost::json::parse(text).as_object());
    EXPECT_GE(progress.share(), 0.0);
    EXPECT_LE(progress.share(), 1.0);
    EXPECT_LE(display_width(progress_bar("web1", progress, 100)), 100U);
  }
}

TEST(ProgressBars, become_at_most_one_line_a_second_where_there_is_no_terminal) {
  MemoryTerminal memory;
  ProgressReporter reporter(memory.terminal(), "web1");
  const ProgressReporter::Clock::time_point begin{};
  for (int i = 0; i <= 25; ++i) {
    reporter.show(half_way(), begin + std::chrono::milliseconds(100 * i));
  }
  const std::string text = memory.talk();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_THAT(text, Not(HasSubstr("\r")));
  EXPECT_EQ(memory.out(), "");
}

TEST(ProgressBars, are_redrawn_in_place_and_removed_on_a_terminal) {
  MemoryTerminal memory("", {.talk_is_terminal = true});
  {
    ProgressReporter reporter(memory.terminal(), "web1");
    reporter.show(half_way());
    reporter.show(half_way());
  }
  const std::string text = memory.talk();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 0);
  EXPECT_TRUE(text.ends_with("\r\033[K"));
}

TEST(Ages, are_relative_and_survive_odd_times) {
  const auto now = WallClock::from_time_t(1772366520);  // 2026-03-01T12:02:00Z
  EXPECT_EQ(age_of("2026-03-01T12:00:00.123Z", now), "2 min ago");
  EXPECT_EQ(age_of("2026-03-01T12:01:55.900Z", now), "5 s ago");
  EXPECT_EQ(age_of("2026-03-01T13:00:00.000Z", now), "just now");
  EXPECT_EQ(age_of("2026-02-01T12:00:00Z", now), "28 days ago");
  EXPECT_EQ(age_of("yesterday", now), "yesterday");
  EXPECT_EQ(age_of("", now), "");
  (void)age_of("9999-99-99T99:99:99Z", now);
  (void)age_of("0000-00-00T00:00:00Z", now);
}

TEST(States, have_the_exit_status_that_the_api_documents) {
  EXPECT_EQ(status_for_state("protected"), 0);
  EXPECT_EQ(status_for_state("standby"), 0);
  EXPECT_EQ(status_for_state("running"), 4);
  EXPECT_EQ(status_for_state("stopped"), 4);
  EXPECT_EQ(status_for_state("backup_lost"), 3);
  EXPECT_EQ(status_for_state("solo"), 3);
  EXPECT_EQ(status_for_state("a state of a later version"), 3);
}

}  // namespace
}  // namespace understudy::cli
