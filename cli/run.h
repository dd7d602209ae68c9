// The whole command, apart from the process around it.
#pragma once

#include <string>
#include <vector>

#include "cli/terminal.h"

namespace understudy::cli {

/// Does what `words` (without the program's name) say and returns the exit status.
/// `socket_from_environment` is the value of UNDERSTUDY_SOCKET, empty if unset. Data goes to the
/// terminal's stdout, everything else to its stderr. Never throws.
int run_understudy(const std::vector<std::string>& words, Terminal& terminal,
                   const std::string& socket_from_environment = "");

}  // namespace understudy::cli
