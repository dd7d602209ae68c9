// A thread for calls that block: Xen's libraries know no other kind.
//
// Intuition: one thread, first come first served. A coroutine hands over a piece of work, waits,
// and goes on where it was. Whoever must not wait behind a slow call has a thread of its own: each
// domain has one for its checkpoints, and the slow things (building and destroying domains) have
// another.
#pragma once

#include <sched.h>

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <type_traits>
#include <utility>

#include "base/run_on.h"
#include "base/task.h"

namespace understudy::xen {

/// Runs what it is given, in order. Its destructor waits until all of it is done.
class BlockingThread {
 public:
  BlockingThread() = default;
  ~BlockingThread() { pool_.join(); }
  BlockingThread(const BlockingThread&) = delete;
  BlockingThread& operator=(const BlockingThread&) = delete;

  /// Its work goes before that of ordinary threads: a guest stands still meanwhile. Where the host
  /// does not allow it, nothing changes. What it forks is ordinary.
  void go_first() {
    post([] {
      sched_param parameter{};
      parameter.sched_priority = 1;
      (void)::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameter);
    });
  }

  /// Runs `work` there and comes back with its result; see run_on().
  template <typename Work>
  Task<std::invoke_result_t<Work&>> run(Work& work) {
    return run_on(pool_.get_executor(), work);
  }

  /// Runs `work` there some time, without telling when. It must own what it uses.
  void post(std::function<void()> work) { boost::asio::post(pool_, std::move(work)); }

 private:
  boost::asio::thread_pool pool_{1};
};

}  // namespace understudy::xen
