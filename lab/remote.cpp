// Runs commands on a host of the lab, without the weight of ssh (1.8 s a command under emulation).
//
//   lab-remote serve ADDRESS PORT                              on the host: runs what it is told
//   to, for whoever asks lab-remote run ADDRESS PORT [-w SECONDS] [-p PID] [-t] -- COMMAND
//   [ARGUMENT…]
//        runs it there with our stdin, stdout and stderr, and ends with its exit code (128 +
//        signal). -w  wait so long for the host to answer     -t  on a terminal of its own -p  the
//        process whose death is the host's: a host that dies sends no word of it
//
// There is no password: the listener is reached only from within the lab's namespace, by us over a
// device of its own (no cut concerns it), by the other hosts over the replication network
// (lab-ssh). One connection carries one command:
//
//   client: u32 flags, u16 rows, u16 columns, u32 count, count times (u32 size, bytes); then frames
//   frame:  u8 kind, u32 size, bytes   (all numbers little-endian, as both sides are the same
//   machine)
//           'i' stdin, 'e' end of stdin, 'w' window size; 'o' stdout, 'r' stderr, 'x' exit code
//
// When the client goes away, the command's process group gets SIGHUP; when the command ends, what
// it left running in the background goes on, as with ssh.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;

constexpr int exit_no_host = 255;  // like ssh: the host could not be reached, or went away
constexpr std::uint32_t flag_terminal = 1;
constexpr std::uint32_t size_max = 1 << 20;

bool write_all(int to, const void* data, std::size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(to, bytes, size);
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      return false;
    }
    bytes += written;
    size -= static_cast<std::size_t>(written);
  }
  return true;
}

bool read_all(int from, void* data, std::size_t size) {
  auto* bytes = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t got = read(from, bytes, size);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return false;
    }
    bytes += got;
    size -= static_cast<std::size_t>(got);
  }
  return true;
}

void append_number(std::string& text, auto number) {
  text.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void append_frame(std::string& text, char kind, const void* data, std::size_t size) {
  text += kind;
  append_number(text, static_cast<std::uint32_t>(size));
  text.append(static_cast<const char*>(data), size);
}

bool send_frame(int to, char kind, const void* data, std::size_t size) {
  std::string frame;
  append_frame(frame, kind, data, size);
  return write_all(to, frame.data(), frame.size());
}

struct Frame {
  char kind = 0;
  std::string bytes;
};

bool receive_frame(int from, Frame& frame) {
  std::uint32_t size = 0;
  if (!read_all(from, &frame.kind, 1) || !read_all(from, &size, sizeof size) || size > size_max) {
    return false;
  }
  frame.bytes.resize(size);
  return read_all(from, frame.bytes.data(), size);
}

sockaddr_in address_of(const char* address, const char* port) {
  sockaddr_in result = {};
  result.sin_family = AF_INET;
  result.sin_port = htons(static_cast<std::uint16_t>(std::strtoul(port, nullptr, 10)));
  if (inet_pton(AF_INET, address, &result.sin_addr) != 1) {
    std::fprintf(stderr, "lab-remote: '%s' is no IPv4 address\n", address);
    std::exit(64);
  }
  return result;
}

// --- on the host

struct Request {
  std::uint32_t flags = 0;
  winsize window = {};
  std::vector<std::string> command;
};

bool receive_request(int from, Request& request) {
  std::uint32_t count = 0;
  if (!read_all(from, &request.flags, sizeof request.flags) ||
      !read_all(from, &request.window.ws_row, 2) || !read_all(from, &request.window.ws_col, 2) ||
      !read_all(from, &count, sizeof count) || count == 0 || count > 4096) {
    return false;
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint32_t size = 0;
    if (!read_all(from, &size, sizeof size) || size > size_max) {
      return false;
    }
    std::string argument(size, '\0');
    if (!read_all(from, argument.data(), size)) {
      return false;
    }
    request.command.push_back(std::move(argument));
  }
  return true;
}

/// The command that runs: what we write to is its stdin, what we read from are its stdout and
/// stderr.
struct Child {
  pid_t pid = -1;
  int exited = -1;  ///< pidfd
  int input = -1;
  int output = -1;
  int errors = -1;
};

[[noreturn]] void become(const Request& request, int input, int output, int errors) {
  setsid();
  if ((request.flags & flag_terminal) != 0) {
    ioctl(input, TIOCSCTTY, 0);
  }
  dup2(input, 0);
  dup2(output, 1);
  dup2(errors, 2);
  close_range(3, ~0U, 0);
  signal(SIGPIPE, SIG_DFL);
  std::vector<char*> arguments;
  arguments.reserve(request.command.size() + 1);
  for (const std::string& argument : request.command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  std::fprintf(stderr, "%s: %s\n", arguments[0], std::strerror(errno));
  _exit(errno == ENOENT ? 127 : 126);
}

Child start(const Request& request) {
  Child child;
  std::array<int, 3> theirs = {-1, -1, -1};
  if ((request.flags & flag_terminal) != 0) {
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    grantpt(terminal);
    unlockpt(terminal);
    ioctl(terminal, TIOCSWINSZ, &request.window);
    const int other = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    theirs = {other, other, other};
    child.input = terminal;
    child.output = dup(terminal);
  } else {
    std::array<int, 2> in = {};
    std::array<int, 2> out = {};
    std::array<int, 2> err = {};
    if (pipe2(in.data(), O_CLOEXEC) != 0 || pipe2(out.data(), O_CLOEXEC) != 0 ||
        pipe2(err.data(), O_CLOEXEC) != 0) {
      return child;
    }
    theirs = {in[0], out[1], err[1]};
    child.input = in[1];
    child.output = out[0];
    child.errors = err[0];
  }
  child.pid = fork();
  if (child.pid == 0) {
    become(request, theirs[0], theirs[1], theirs[2]);
  }
  for (const int end : theirs) {
    close(end);
  }
  fcntl(child.input, F_SETFL, O_NONBLOCK);
  child.exited = static_cast<int>(syscall(SYS_pidfd_open, child.pid, 0));
  return child;
}

/// Hands on what the command says; false when there is no more, or nobody to hear it.
bool pass_output(int from, int to, char kind) {
  std::array<char, 65536> bytes;
  const ssize_t size = read(from, bytes.data(), bytes.size());
  return size > 0 && send_frame(to, kind, bytes.data(), static_cast<std::size_t>(size));
}

bool readable(int from) {
  pollfd one = {from, POLLIN, 0};
  return from >= 0 && poll(&one, 1, 0) == 1 && (one.revents & POLLIN) != 0;
}

void serve_one(int client) {
  Request request;
  if (!receive_request(client, request)) {
    return;
  }
  signal(SIGPIPE, SIG_IGN);
  Child child = start(request);
  if (child.pid < 0 || child.exited < 0) {
    return;
  }
  std::string
      pending;  // stdin that the command has not taken yet; while there is some, we read no more
  bool input_ended = false;
  const auto hang_up = [&] {
    kill(-child.pid, SIGHUP);
    kill(-child.pid, SIGCONT);
  };
  while (true) {
    std::array<pollfd, 5> watched = {{{pending.empty() ? client : -1, POLLIN, 0},
                                      {child.output, POLLIN, 0},
                                      {child.errors, POLLIN, 0},
                                      {child.exited, POLLIN, 0},
                                      {pending.empty() ? -1 : child.input, POLLOUT, 0}}};
    if (poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR) {
      return hang_up();
    }
    if (watched[0].revents != 0) {
      Frame frame;
      if (!receive_frame(client, frame)) {
        return hang_up();
      }
      if (frame.kind == 'i') {
        pending += frame.bytes;
      } else if (frame.kind == 'e') {
        input_ended = true;
      } else if (frame.kind == 'w' && frame.bytes.size() == 4) {
        std::memcpy(&request.window.ws_row, frame.bytes.data(), 2);
        std::memcpy(&request.window.ws_col, frame.bytes.data() + 2, 2);
        ioctl(child.output, TIOCSWINSZ, &request.window);
      }
    }
    if (!pending.empty() && child.input >= 0) {
      const ssize_t written = write(child.input, pending.data(), pending.size());
      if (written > 0) {
        pending.erase(0, static_cast<std::size_t>(written));
      } else if (written < 0 && errno != EAGAIN && errno != EINTR) {
        close(child.input);  // the command reads no more; what else comes is for nobody
        child.input = -1;
      }
    }
    if (child.input < 0) {
      pending.clear();
    }
    if (input_ended && pending.empty() && child.input >= 0) {
      close(child.input);
      child.input = -1;
    }
    if (watched[1].revents != 0 && !pass_output(child.output, client, 'o')) {
      child.output = -1;
    }
    if (watched[2].revents != 0 && !pass_output(child.errors, client, 'r')) {
      child.errors = -1;
    }
    if (watched[3].revents != 0) {
      break;
    }
  }
  // What it said before it ended; not what its heirs in the background may still say.
  while (readable(child.output) && pass_output(child.output, client, 'o')) {
  }
  while (readable(child.errors) && pass_output(child.errors, client, 'r')) {
  }
  int status = 0;
  waitpid(child.pid, &status, 0);
  const std::uint32_t code = WIFEXITED(status) ? static_cast<std::uint32_t>(WEXITSTATUS(status))
                                               : 128 + static_cast<std::uint32_t>(WTERMSIG(status));
  send_frame(client, 'x', &code, sizeof code);
}

int serve(const char* address, const char* port) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const sockaddr_in where = address_of(address, port);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0 ||
      listen(listener, 64) != 0) {
    std::perror("lab-remote: cannot listen");
    return 1;
  }
  signal(SIGCHLD, SIG_IGN);  // nobody waits for those that serve
  while (true) {
    const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) {
      continue;
    }
    if (fork() == 0) {
      signal(SIGCHLD, SIG_DFL);
      close(listener);
      setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      serve_one(client);
      _exit(0);
    }
    close(client);
  }
}

// --- on our side

int window_changes = -1;
termios terminal_before;
bool terminal_changed = false;

void restore_terminal() {
  if (terminal_changed) {
    tcsetattr(0, TCSAFLUSH, &terminal_before);
  }
}

void make_terminal_raw() {
  if (tcgetattr(0, &terminal_before) == 0) {
    termios raw = terminal_before;
    cfmakeraw(&raw);
    tcsetattr(0, TCSAFLUSH, &raw);
    terminal_changed = true;
    std::atexit(restore_terminal);
  }
}

/// Waits for the host to answer. A connection made while it boots is refused or silent: try anew.
int connect_to(const sockaddr_in& where, std::chrono::milliseconds patience, int host) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int on = 1;
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    int error = 0;
    if (connect(server, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0) {
      error = errno;
      std::array<pollfd, 2> watched = {{{server, POLLOUT, 0}, {host, POLLIN, 0}}};
      if (error == EINPROGRESS && poll(watched.data(), watched.size(), 500) > 0 &&
          watched[0].revents != 0) {
        socklen_t size = sizeof error;
        getsockopt(server, SOL_SOCKET, SO_ERROR, &error, &size);
      }
      if (watched[1].revents != 0) {
        std::fprintf(stderr, "lab-remote: the host is gone\n");
        return -1;
      }
    }
    if (error == 0) {
      fcntl(server, F_SETFL, 0);
      return server;
    }
    close(server);
    if (std::chrono::steady_clock::now() >= end) {
      std::fprintf(stderr, "lab-remote: the host does not answer\n");
      return -1;
    }
    if (error != EINPROGRESS) {
      std::this_thread::sleep_for(50ms);
    }
  }
}

void append_window(std::string& text) {
  winsize window = {};
  ioctl(0, TIOCGWINSZ, &window);
  std::string bytes;
  append_number(bytes, window.ws_row);
  append_number(bytes, window.ws_col);
  append_frame(text, 'w', bytes.data(), bytes.size());
}

int run(const sockaddr_in& where, std::chrono::milliseconds patience, pid_t host_pid, bool terminal,
        const std::vector<std::string>& command) {
  const int host = host_pid > 0 ? static_cast<int>(syscall(SYS_pidfd_open, host_pid, 0)) : -1;
  if (host_pid > 0 && host < 0) {
    std::fprintf(stderr, "lab-remote: the host is gone\n");
    return exit_no_host;
  }
  signal(SIGPIPE, SIG_IGN);
  const int server = connect_to(where, patience, host);
  if (server < 0) {
    return exit_no_host;
  }
  std::string request;
  winsize window = {};
  ioctl(0, TIOCGWINSZ, &window);
  append_number(request, terminal ? flag_terminal : std::uint32_t{0});
  append_number(request, window.ws_row);
  append_number(request, window.ws_col);
  append_number(request, static_cast<std::uint32_t>(command.size()));
  for (const std::string& argument : command) {
    append_number(request, static_cast<std::uint32_t>(argument.size()));
    request += argument;
  }
  int changes = -1;
  if (terminal) {
    std::array<int, 2> ends = {};
    if (pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) == 0) {
      changes = ends[0];
      window_changes = ends[1];
      signal(SIGWINCH, [](int) { (void)!write(window_changes, "", 1); });
    }
    make_terminal_raw();
  }
  bool fine = write_all(server, request.data(), request.size());
  int input = 0;
  // What the host has not taken yet. We never wait for it to take something without listening as
  // well: it may be waiting for us to take the command's output, and then both would wait for ever.
  std::string outgoing;
  std::array<char, 65536> bytes;
  while (fine) {
    const short wanted = outgoing.empty() ? POLLIN : POLLIN | POLLOUT;
    std::array<pollfd, 4> watched = {{{server, wanted, 0},
                                      {outgoing.empty() ? input : -1, POLLIN, 0},
                                      {host, POLLIN, 0},
                                      {changes, POLLIN, 0}}};
    if (poll(watched.data(), watched.size(), -1) < 0) {
      continue;  // a signal: the window's size has changed
    }
    if ((watched[0].revents & ~POLLOUT) != 0) {
      Frame frame;
      fine = receive_frame(server, frame);
      if (fine && frame.kind == 'x' && frame.bytes.size() == 4) {
        std::uint32_t code = 0;
        std::memcpy(&code, frame.bytes.data(), sizeof code);
        return static_cast<int>(code);
      }
      if (fine && !write_all(frame.kind == 'r' ? 2 : 1, frame.bytes.data(), frame.bytes.size())) {
        return 128 + SIGPIPE;  // nobody reads our output any more; the command gets its SIGHUP
      }
      continue;  // what was said before the host's death is heard first
    }
    if (watched[2].revents != 0) {
      break;
    }
    if (!outgoing.empty() && (watched[0].revents & POLLOUT) != 0) {
      const ssize_t sent = send(server, outgoing.data(), outgoing.size(), MSG_DONTWAIT);
      if (sent > 0) {
        outgoing.erase(0, static_cast<std::size_t>(sent));
      } else if (errno != EAGAIN && errno != EINTR) {
        outgoing
            .clear();  // a command that has ended takes no more; its exit code is still to be read
        input = -1;
      }
    }
    if (watched[3].revents != 0) {
      (void)!read(changes, bytes.data(), bytes.size());
      append_window(outgoing);
    }
    if (watched[1].revents != 0) {
      const ssize_t size = read(input, bytes.data(), bytes.size());
      if (size > 0) {
        append_frame(outgoing, 'i', bytes.data(), static_cast<std::size_t>(size));
      } else {
        append_frame(outgoing, 'e', "", 0);
        input = -1;
      }
    }
  }
  restore_terminal();
  std::fprintf(stderr, "lab-remote: the connection to the host is lost\n");
  return exit_no_host;
}

[[noreturn]] void usage() {
  std::fprintf(
      stderr,
      "usage: lab-remote serve ADDRESS PORT\n"
      "       lab-remote run ADDRESS PORT [-w SECONDS] [-p PID] [-t] -- COMMAND [ARGUMENT...]\n");
  std::exit(64);
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  if (words.size() == 3 && words[0] == "serve") {
    return serve(arguments[2], arguments[3]);
  }
  if (words.size() < 5 || words[0] != "run") {
    usage();
  }
  std::chrono::milliseconds patience = 10s;
  pid_t host = 0;
  bool terminal = false;
  std::size_t i = 3;
  for (; i < words.size() && words[i] != "--"; ++i) {
    if (words[i] == "-t") {
      terminal = true;
    } else if (words[i] == "-w" && i + 1 < words.size()) {
      patience = std::chrono::seconds(std::strtol(words[++i].c_str(), nullptr, 10));
    } else if (words[i] == "-p" && i + 1 < words.size()) {
      host = static_cast<pid_t>(std::strtol(words[++i].c_str(), nullptr, 10));
    } else {
      usage();
    }
  }
  if (i + 1 >= words.size()) {
    usage();
  }
  const std::vector<std::string> command(words.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                                         words.end());
  return run(address_of(arguments[2], arguments[3]), patience, host, terminal, command);
}
