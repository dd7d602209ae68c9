#include "checkpoint/checkpoint_encoder.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace understudy {

namespace asio = boost::asio;

/// What the capture and the work on the pool share. Unless said otherwise a member belongs to the
/// thread of `executor`.
struct CheckpointCapture::State : std::enable_shared_from_this<State> {
  /// A chunk that waits for a worker.
  struct Staged {
    StagingChunk chunk;
    std::uint64_t round;  // Which copy() filled it.
  };
  /// A chunk after encoding. The batch is empty when every page equals the mirror.
  struct Encoded {
    std::vector<std::byte> batch;
    EncodeStatistics statistics;
  };

  State(asio::any_io_executor executor_, asio::any_io_executor workers_, StagingArena arena_,
        std::shared_ptr<Mirror> mirror_, BatchSink sink_, CaptureLimits limits)
      : executor(std::move(executor_)),
        workers(std::move(workers_)),
        arena(std::move(arena_)),
        mirror(std::move(mirror_)),
        sink(std::move(sink_)),
        // Below one batch nothing would ever move.
        encoded_bytes_max(std::max(limits.encoded_bytes_max, kBatchBytesMax)),
        news(std::in_place, executor, asio::steady_timer::time_point::max()) {}

  [[nodiscard]] bool idle() const { return staged.empty() && running == 0 && encoded.empty(); }

  void dispatch();
  void work();
  void on_encoded(Encoded result, std::uint64_t for_run);
  Task<Result<void>> hand_out_or_wait();
  void abandon();

  const asio::any_io_executor executor;
  const asio::any_io_executor workers;
  StagingArena arena;
  const std::shared_ptr<Mirror> mirror;
  const BatchSink sink;
  const std::size_t encoded_bytes_max;

  EpochId epoch;
  std::uint64_t round = 0;
  std::deque<Staged> staged;
  std::size_t running = 0;          // Chunks queued or at work, or not heard of yet,
  std::uint64_t running_round = 0;  // all of this round.
  std::deque<std::vector<std::byte>> encoded;
  std::size_t encoded_bytes = 0;
  BatchChain chain;
  CaptureTotals totals;
  // Never expires; cancelling it wakes who waits for on_encoded(). Empty once the capture is gone.
  std::optional<asio::steady_timer> news;

  // Shared with the workers.
  std::mutex mutex;
  std::condition_variable worker_done;
  std::deque<StagingChunk> queued;  // Given to the pool, not begun.
  std::uint64_t run = 0;    // Raised by abandon(): what workers of an older run say is ignored.
  std::size_t at_work = 0;  // Workers between start and end of work().
  std::vector<PageBatchEncoder> encoders;  // Those not in use; never more than the pool's threads.
};

/// Gives chunks to the pool as far as order and memory allow.
void CheckpointCapture::State::dispatch() {
  while (!staged.empty()) {
    // A page may be in chunks of two rounds; the older content must be encoded, and sent, first.
    if (running > 0 && staged.front().round != running_round) return;
    // What is being encoded may turn out as large as a batch can be.
    if (encoded_bytes + (running + 1) * kBatchBytesMax > encoded_bytes_max) return;
    running_round = staged.front().round;
    ++running;
    {
      const std::lock_guard lock(mutex);
      queued.push_back(std::move(staged.front().chunk));
    }
    staged.pop_front();
    asio::post(workers, [self = shared_from_this()] { self->work(); });
  }
}

/// On a worker's thread.
void CheckpointCapture::State::work() {
  std::optional<StagingChunk> chunk;
  std::optional<PageBatchEncoder> encoder;
  std::uint64_t for_run = 0;
  {
    const std::lock_guard lock(mutex);
    if (queued.empty()) return;  // Abandoned.
    chunk = std::move(queued.front());
    queued.pop_front();
    for_run = run;
    ++at_work;
    if (!encoders.empty()) {
      encoder = std::move(encoders.back());
      encoders.pop_back();
    }
  }
  if (!encoder) encoder.emplace();
  const std::span<const std::byte> batch = encoder->encode(epoch, chunk->pages(), *mirror);
  Encoded result{{batch.begin(), batch.end()}, encoder->take_statistics()};
  // Back to the arena before the capture hears of it and looks for a chunk.
  chunk.reset();
  // Posted while we still count as at work: abandon() waits for us, so the executor is there.
  asio::post(executor, [self = shared_from_this(), for_run, result = std::move(result)]() mutable {
    self->on_encoded(std::move(result), for_run);
  });
  const std::lock_guard lock(mutex);
  encoders.push_back(std::move(*encoder));
  --at_work;
  worker_done.notify_all();
}

void CheckpointCapture::State::on_encoded(Encoded result, std::uint64_t for_run) {
  if (run != for_run) return;
  --running;
  totals.statistics += result.statistics;
  if (!result.batch.empty()) {
    encoded_bytes += result.batch.size();
    encoded.push_back(std::move(result.batch));
  }
  dispatch();
  news->cancel();
}

/// One step forward while something is under way: hands out a batch, or waits for one.
Task<Result<void>> CheckpointCapture::State::hand_out_or_wait() {
  if (!encoded.empty()) {
    std::vector<std::byte> batch = std::move(encoded.front());
    encoded.pop_front();
    encoded_bytes -= batch.size();
    totals.batches += 1;
    chain.add(batch);
    totals.chain = chain.value();
    dispatch();
    co_return co_await sink(std::move(batch));
  }
  UNDERSTUDY_CHECK(running > 0, "capture: waits for work that nobody does");
  (void)co_await news->async_wait(asio::as_tuple(asio::use_awaitable));
  const asio::cancellation_state cancelled = co_await asio::this_coro::cancellation_state;
  if (cancelled.cancelled() != asio::cancellation_type::none) {
    co_return fail(ErrorCode::try_again, "capture: cancelled in checkpoint {}", epoch);
  }
  co_return ok();
}

void CheckpointCapture::State::abandon() {
  {
    std::unique_lock lock(mutex);
    ++run;
    queued.clear();
    worker_done.wait(lock, [this] { return at_work == 0; });
  }
  running = 0;
  staged.clear();
  encoded.clear();
  encoded_bytes = 0;
}

CheckpointCapture::CheckpointCapture(asio::any_io_executor executor, asio::any_io_executor workers,
                                     StagingArena arena, std::shared_ptr<Mirror> mirror,
                                     BatchSink sink, CaptureLimits limits)
    : state_(std::make_shared<State>(std::move(executor), std::move(workers), std::move(arena),
                                     std::move(mirror), std::move(sink), limits)) {}

CheckpointCapture::~CheckpointCapture() {
  state_->abandon();
  state_->news.reset();  // Work on the pool may hold the state longer than the executor lives.
}

void CheckpointCapture::begin(EpochId epoch) {
  UNDERSTUDY_CHECK(state_->idle(), "capture: a checkpoint begins before the last one is sent");
  state_->epoch = epoch;
  state_->chain = {};
  state_->totals = {};
}

Task<Result<void>> CheckpointCapture::copy(std::span<const std::byte> memory,
                                           std::span<const PageRange> dirty) {
  State& state = *state_;
  if (memory.size() != state.mirror->memory_pages() * kPageBytes) {
    co_return fail(ErrorCode::internal, "capture: {} octets of memory, the mirror has {} pages",
                   memory.size(), state.mirror->memory_pages());
  }
  if (!is_well_formed(dirty, state.mirror->memory_pages())) {
    co_return fail(ErrorCode::internal,
                   "capture: dirty pages that are not in order or beyond {} pages of memory",
                   state.mirror->memory_pages());
  }
  ++state.round;
  DirtyCursor cursor(dirty);
  while (cursor.pages_left() > 0) {
    std::optional<StagingChunk> chunk = state.arena.try_acquire();
    if (!chunk) {
      BOOST_OUTCOME_CO_TRY(co_await state.hand_out_or_wait());
      continue;
    }
    chunk->fill(memory, cursor);
    state.staged.push_back({std::move(*chunk), state.round});
    state.dispatch();
  }
  co_return ok();
}

Task<Result<CaptureTotals>> CheckpointCapture::send_rest() {
  while (!state_->idle()) {
    BOOST_OUTCOME_CO_TRY(co_await state_->hand_out_or_wait());
  }
  state_->totals.pages = state_->totals.statistics.pages_sent();
  co_return state_->totals;
}

void CheckpointCapture::abandon() {
  state_->abandon();
}

}  // namespace understudy
