#include "tests/scene/whims_traffic.h"

#include "tests/guest/whims.h"

namespace understudy::scene {

WhimsTraffic::WhimsTraffic(ClientOptions options, std::size_t random_bytes,
                           std::chrono::milliseconds pause)
    : Traffic("whims", 9004, std::move(options)), random_bytes_(random_bytes), pause_(pause) {}

void WhimsTraffic::run(unsigned index, Witness& witness, std::stop_token stop) {
  std::uint64_t nonce = guest::mix(index);
  while (!stop.stop_requested()) {
    auto connected =
        TcpSocket::connect(options().address, options().port, options().patience, abandoned());
    if (!connected) {
      if (stop.stop_requested() || abandoned().stop_requested()) {
        return;
      }
      if (connected.error().code() == ErrorCode::timed_out) {
        witness.broke(connected.error().message());
        return;
      }
      ++resets_;  // a reset meets connections that are being opened, too
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      continue;
    }
    TcpSocket& socket = connected.value();
    std::uint64_t chain = 0;
    auto outcome = TcpSocket::Outcome::done;
    while (outcome == TcpSocket::Outcome::done && !stop.stop_requested()) {
      nonce = guest::mix(nonce);
      const auto begun = Clock::now();
      outcome = socket.send(fmt::format("W {} {}\n", nonce, random_bytes_), options().patience,
                            abandoned());
      std::string line;
      if (outcome == TcpSocket::Outcome::done) {
        outcome = socket.receive_line(line, options().patience, abandoned());
      }
      if (outcome != TcpSocket::Outcome::done) {
        break;
      }
      const std::size_t cut = line.rfind(' ');
      const std::string text = line.substr(0, cut == std::string::npos ? 0 : cut);
      chain = guest::next_whim_chain(chain, text);
      if (!text.starts_with(fmt::format("W {} ", nonce)) ||
          line.substr(text.size()) != fmt::format(" {:016x}", chain)) {
        ++mixtures_;
        witness.wrong(line.size());
        break;  // what follows on this connection would be wrong as well
      }
      witness.verified(line.size());
      witness.operation(begun);
      std::this_thread::sleep_for(pause_);
    }
    if (outcome == TcpSocket::Outcome::closed) {
      ++resets_;
    } else {
      note(witness, socket, outcome, options().patience);
      if (outcome == TcpSocket::Outcome::timed_out) {
        return;
      }
    }
  }
}

}  // namespace understudy::scene
