#include "base/toml_text.h"

#include <cstdint>

namespace understudy {

Result<void> check_toml_characters(std::string_view text, std::string_view file_name) {
  const bool has_long_strings =
      text.find("\"\"\"") != std::string_view::npos || text.find("'''") != std::string_view::npos;
  std::uint32_t line = 1;
  char quote = 0;  // The quotation mark that closes the text we are in, '#' in a comment.
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      quote = 0;
    } else if (static_cast<unsigned char>(c) >= 0x80 && (quote != '#' || has_long_strings)) {
      return fail(ErrorCode::config,
                  "{}:{}: a character outside ASCII; in quoted text write it as \\uXXXX", file_name,
                  line);
    } else if (quote == '"' && c == '\\' && i + 1 < text.size() && text[i + 1] != '\n') {
      ++i;  // What is escaped closes nothing.
    } else if (quote == 0 && (c == '"' || c == '\'' || c == '#')) {
      quote = c;
    } else if (quote == c && c != '#') {
      quote = 0;
    }
  }
  return ok();
}

}  // namespace understudy
