// understudy: the command of the operator.
#include <cstdlib>

#include "cli/run.h"

int main(int argument_count, char** arguments) {
  using namespace understudy::cli;
  Terminal terminal = Terminal::of_process();
  const char* const socket = std::getenv("UNDERSTUDY_SOCKET");
  return run_understudy({arguments + 1, arguments + argument_count}, terminal,
                        socket == nullptr ? "" : socket);
}
