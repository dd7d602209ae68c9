// understudy(1), written from the table of commands with the classic man macros.
#include "cli/help.h"

namespace understudy::cli {
namespace {

/// Text for a roff line: the escape character, minus signs that are typed, and a dot or quote that
/// would begin a request.
std::string roff(std::string_view text) {
  std::string result;
  for (const char letter : text) {
    const bool at_line_start = result.empty() || result.back() == '\n';
    if (at_line_start && (letter == '.' || letter == '\'')) {
      result += "\\&";
    }
    if (letter == '\\') {
      result += "\\e";
    } else if (letter == '-') {
      result += "\\-";
    } else {
      result += letter;
    }
  }
  return result;
}

std::string paragraphs(std::string_view text) {
  std::string result;
  while (true) {
    const std::size_t end = text.find("\n\n");
    result += roff(text.substr(0, end)) + "\n";
    if (end == std::string_view::npos) {
      return result;
    }
    result += ".PP\n";
    text.remove_prefix(end + 2);
  }
}

std::string option_entry(const Option& option) {
  std::string label;
  for (const char letter : roff(option.flags)) {
    label += letter == ',' ? std::string("\\fR, \\fB") : std::string(1, letter);
  }
  std::string text = ".TP\n\\fB" + label + "\\fR";
  if (!option.value.empty()) {
    text += " \\fI" + roff(option.value) + "\\fR";
  }
  text += "\n" + roff(option.help);
  if (!option.choices.empty()) {
    text += ":";
    for (std::size_t i = 0; i < option.choices.size(); ++i) {
      text += (i == 0 ? " \\fB" : ", \\fB") + roff(option.choices[i]) + "\\fR";
    }
  }
  text += option.required ? ". Required" : "";
  text += option.repeatable ? ". May be given several times" : "";
  return text + ".\n";
}

std::string exit_entries(const std::vector<ExitMeaning>& exits) {
  std::string text;
  for (const ExitMeaning& exit : exits) {
    text += fmt::format(".TP\n.B {}\n{}\n", exit.status, roff(exit.meaning));
  }
  return text;
}

std::string command_entry(const Command& command) {
  std::string text = fmt::format(".SS \"{}\"\n", roff("understudy " + command.path));
  text += roff(command.summary) + ".\n.PP\n.RS 4\n";
  text += "\\fBunderstudy " + roff(command.path) + "\\fR";
  for (const Positional& positional : command.positionals) {
    text += positional.required ? " \\fI" + positional.name + "\\fR"
                                : " [\\fI" + positional.name + "\\fR]";
  }
  for (const Option& option : command.options) {
    std::string form = "\\fB" + roff(option.name()) + "\\fR";
    if (!option.value.empty()) {
      form += " \\fI" + roff(option.value) + "\\fR";
    }
    text += option.required ? " " + form : " [" + form + "]";
  }
  text += "\n.RE\n.PP\n" + paragraphs(command.description);
  for (const Positional& positional : command.positionals) {
    text += ".TP\n\\fI" + positional.name + "\\fR\n" + roff(positional.help) + ".\n";
  }
  for (const Option& option : command.options) {
    text += option_entry(option);
  }
  if (!command.exits.empty()) {
    text += ".PP\nExit status:\n" + exit_entries(command.exits);
  }
  for (const Example& example : command.examples) {
    text +=
        ".PP\n" + roff(example.what) + ":\n.PP\n.RS 4\n.nf\n" + roff(example.line) + "\n.fi\n.RE\n";
  }
  return text;
}

}  // namespace

std::string manual_page() {
  std::string text =
      ".\\\" Written by 'understudy help --man' from the table of commands. Do not edit.\n"
      ".TH UNDERSTUDY 1 \"\" \"understudy " UNDERSTUDY_VERSION
      "\" \"Understudy manual\"\n"
      ".SH NAME\nunderstudy \\- keep virtual machines alive when their host dies\n"
      ".SH SYNOPSIS\n.B understudy\n.I COMMAND\n[\\fIARGUMENTS\\fR] [\\fIOPTIONS\\fR]\n"
      ".SH DESCRIPTION\n"
      "A domain (a virtual machine) runs on its \\fIprimary\\fR. Its \\fIbackup\\fR, a second "
      "host, holds an image "
      "of it that is renewed many times a second, and resumes it when the primary fails: same "
      "address, same "
      "open connections, nothing lost that a client was ever told.\n.PP\n"
      ".B understudy\n"
      "speaks to the agent of this host, \\fBunderstudyd\\fR(8), over a unix socket. Data goes to "
      "standard output, "
      "everything else to standard error.\n.PP\n"
      "Durations are written with a unit: 100us, 25ms, 2s, 10min, 1h.\n"
      ".SH COMMANDS\n";
  for (const CommandFamily& family : command_table()) {
    for (const Command& command : family.commands) {
      text += command_entry(command);
    }
  }
  text += ".SH OPTIONS\nEvery command takes these.\n";
  for (const Option& option : global_options()) {
    text += option_entry(option);
  }
  text += ".SH \"EXIT STATUS\"\n" + exit_entries(common_exits());
  text +=
      ".SH ENVIRONMENT\n"
      ".TP\n.B UNDERSTUDY_SOCKET\nThe agent's socket, where \\fB\\-\\-socket\\fR is not given.\n"
      ".TP\n.B NO_COLOR\nIf set and not empty, nothing is coloured.\n"
      ".SH FILES\n"
      ".TP\n.I /run/understudy/understudyd.sock\nThe agent's socket.\n"
      ".TP\n.I /etc/understudy/understudy.toml\nThe agent's configuration, see "
      "\\fBunderstudy.toml\\fR(5).\n"
      ".SH \"SEE ALSO\"\n.BR understudyd (8),\n.BR understudy.toml (5)\n";
  return text;
}

}  // namespace understudy::cli
