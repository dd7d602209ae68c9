// The parts of a checkpoint that cost time, one by one: on one core, on memory larger than the
// caches (64 MiB) where that is what happens in life. bytes_per_second counts guest memory looked
// at; `encoded_ratio` is octets sent for each octet of guest memory given to the encoder.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "base/mapping.h"
#include "base/unique_fd.h"
#include "checkpoint/backup_image.h"
#include "checkpoint/device_state.h"
#include "checkpoint/page_batch.h"
#include "checkpoint/staging.h"

namespace understudy {
namespace {

constexpr std::size_t kPages = 16384;  // 64 MiB.

/// Shared memory as a QEMU domain's: a file, mapped, all of it populated.
struct GuestMemory {
  explicit GuestMemory(std::size_t pages)
      : file(::memfd_create("understudy-bench-guest", MFD_CLOEXEC)) {
    if (::ftruncate(file.get(), static_cast<off_t>(pages * kPageBytes)) != 0) std::abort();
    mapping = Mapping::of_file(file.get(), pages * kPageBytes, Mapping::Access::read_write, "guest")
                  .value();
  }
  /// Fills every page with content that hardly packs.
  void fill_random(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (std::size_t at = 0; at < mapping.bytes().size(); at += 8) {
      const std::uint64_t word = random();
      std::memcpy(mapping.bytes().data() + at, &word, 8);
    }
  }
  std::byte* page(std::size_t number) { return mapping.bytes().data() + number * kPageBytes; }

  UniqueFd file;
  Mapping mapping;
};

void per_page(benchmark::State& state, std::size_t pages_per_iteration) {
  state.SetBytesProcessed(
      static_cast<std::int64_t>(state.iterations() * pages_per_iteration * kPageBytes));
  state.counters["pages_per_s"] = benchmark::Counter(
      static_cast<double>(state.iterations() * pages_per_iteration), benchmark::Counter::kIsRate);
}

// --- Comparing -----------------------------------------------------------------------------------

void compare_pages(benchmark::State& state, const PageComparer* comparer) {
  GuestMemory left(kPages);
  GuestMemory right(kPages);
  left.fill_random(1);
  right.fill_random(1);
  std::size_t page = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(comparer->changed_lines(left.page(page), right.page(page)));
    page = (page + 1) % kPages;
  }
  per_page(state, 1);
}

// --- Copying in the pause ------------------------------------------------------------------------

/// 1,000 dirty pages in runs of `state.range(0)`, scattered over the memory: the copy of one pause.
void copy_in_pause(benchmark::State& state) {
  GuestMemory memory(kPages);
  memory.fill_random(1);
  StagingArena arena = StagingArena::create().value();
  const auto run = static_cast<std::uint64_t>(state.range(0));
  std::vector<std::uint64_t> starts(kPages / run);
  for (std::size_t i = 0; i < starts.size(); ++i) starts[i] = i * run;
  std::mt19937_64 random(1);
  std::vector<double> times_ms;
  for (auto _ : state) {
    state.PauseTiming();
    std::ranges::shuffle(starts, random);
    DirtySet dirty;
    for (std::uint64_t i = 0; i < 1000 / run; ++i) dirty.push_back({starts[i], run});
    std::ranges::sort(dirty);
    std::vector<StagingChunk> chunks;
    chunks.reserve(8);
    state.ResumeTiming();
    const auto start = std::chrono::steady_clock::now();
    DirtyCursor cursor(dirty);
    while (cursor.pages_left() > 0) {
      chunks.push_back(std::move(*arena.try_acquire()));
      chunks.back().fill(memory.mapping.bytes(), cursor);
    }
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    times_ms.push_back(took.count());
    state.PauseTiming();
    chunks.clear();
    state.ResumeTiming();
  }
  std::ranges::sort(times_ms);
  state.counters["copy_ms_p50"] = times_ms[times_ms.size() / 2];
  state.counters["copy_ms_p99"] = times_ms[times_ms.size() * 99 / 100];
}

// --- Encoding ------------------------------------------------------------------------------------

enum class Change { none, one_line, four_lines, all_random, all_text, all_zero };

void change_page(std::byte* page, Change change, std::mt19937_64& random) {
  const auto write_word = [&](std::size_t at) {
    const std::uint64_t word = random();
    std::memcpy(page + at, &word, sizeof(word));
  };
  switch (change) {
    case Change::none:
      return;
    case Change::one_line:
      write_word(random() % (kPageBytes / 8) * 8);
      return;
    case Change::four_lines:
      for (int i = 0; i < 4; ++i) write_word(random() % (kPageBytes / 8) * 8);
      return;
    case Change::all_random:
      for (std::size_t at = 0; at < kPageBytes; at += 8) write_word(at);
      return;
    case Change::all_text: {
      // Words of a small vocabulary: packs about as prose or code does.
      static constexpr const char* kWords[] = {"epoch ", "commit ", "backup ", "output ",
                                               "held ",  "page ",   "the ",    "release "};
      for (std::size_t at = 0; at < kPageBytes;) {
        const char* word = kWords[random() % std::size(kWords)];
        const std::size_t length = std::min(std::strlen(word), kPageBytes - at);
        std::memcpy(page + at, word, length);
        at += length;
      }
      return;
    }
    case Change::all_zero:
      std::memset(page, 0, kPageBytes);
      return;
  }
}

void encode_pages(benchmark::State& state, Change change, Mirror::Keep keep) {
  GuestMemory memory(kPages);
  memory.fill_random(1);
  const auto mirror = Mirror::create(kPages, keep).value();
  PageBatchEncoder encoder;
  std::vector<StagedPage> staged(kBatchPagesMax);
  const auto encode_chunk = [&](std::size_t first) {
    for (std::size_t i = 0; i < kBatchPagesMax; ++i) {
      staged[i] = {PageNumber(first + i), memory.page(first + i)};
    }
    return encoder.encode(EpochId(1), staged, *mirror).size();
  };
  for (std::size_t first = 0; first < kPages; first += kBatchPagesMax) encode_chunk(first);
  (void)encoder.take_statistics();
  std::mt19937_64 random(2);
  std::size_t first = 0;
  for (auto _ : state) {
    if (change != Change::none) {
      state.PauseTiming();
      for (std::size_t i = 0; i < kBatchPagesMax; ++i) {
        // A page that is zero already would be 'unchanged'.
        if (change == Change::all_zero)
          change_page(memory.page(first + i), Change::all_random, random);
      }
      if (change == Change::all_zero) encode_chunk(first);
      for (std::size_t i = 0; i < kBatchPagesMax; ++i) {
        change_page(memory.page(first + i), change, random);
      }
      (void)encoder.take_statistics();
      state.ResumeTiming();
    }
    benchmark::DoNotOptimize(encode_chunk(first));
    first = (first + kBatchPagesMax) % kPages;
  }
  const EncodeStatistics last = encoder.take_statistics();
  state.counters["encoded_ratio"] =
      static_cast<double>(last.encoded_bytes) / static_cast<double>(last.pages_in * kPageBytes);
  per_page(state, kBatchPagesMax);
}

// --- The backup ----------------------------------------------------------------------------------

/// One epoch of 1,000 pages: add() is what stands before the acknowledgement, apply() what follows.
void receive_epoch(benchmark::State& state, Change change) {
  GuestMemory memory(kPages);
  GuestMemory image_memory(kPages);
  const auto mirror = Mirror::create(kPages).value();
  const auto image =
      BackupImage::create(image_memory.mapping.bytes(), image_memory.file.get()).value();
  PageBatchEncoder encoder;
  DeviceStateEncoder device_encoder;
  std::mt19937_64 random(3);
  std::uint64_t epoch = 0;
  double add_ms = 0;
  double apply_ms = 0;
  const auto since_ms = [](std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
  };
  const auto one_epoch = [&](std::size_t pages, Change how) {
    ++epoch;
    BatchChain chain;
    CheckpointEnd end{EpochId(epoch)};
    std::vector<std::vector<std::byte>> batches;
    for (std::size_t first = 0; first < pages; first += kBatchPagesMax) {
      std::vector<StagedPage> staged;
      for (std::size_t i = first; i < std::min(pages, first + kBatchPagesMax); ++i) {
        const std::size_t page = i * (kPages / pages);
        change_page(memory.page(page), how, random);
        staged.push_back({PageNumber(page), memory.page(page)});
      }
      const auto batch = encoder.encode(EpochId(epoch), staged, *mirror);
      chain.add(batch);
      batches.emplace_back(batch.begin(), batch.end());
    }
    const EncodeStatistics statistics = encoder.take_statistics();
    end.batches = batches.size();
    end.pages = statistics.pages_sent();
    end.chain = chain.value();
    const auto device_state = device_encoder.encode(EpochId(epoch), {}).value();
    const auto start = std::chrono::steady_clock::now();
    const CheckpointBegin begin{ProtectionId(1),    Generation(1), EpochId(epoch),
                                EpochId(epoch - 1), kPages,        pages};
    if (!image->begin(begin)) std::abort();
    for (auto& batch : batches) {
      if (!image->add(std::move(batch))) std::abort();
    }
    if (!image->device_state(device_state) || !image->complete(end)) std::abort();
    add_ms += since_ms(start);
    const auto middle = std::chrono::steady_clock::now();
    image->apply();
    apply_ms += since_ms(middle);
  };
  one_epoch(kPages, Change::all_random);
  add_ms = 0;
  apply_ms = 0;
  for (auto _ : state) {
    const double before = add_ms + apply_ms;
    one_epoch(1000, change);
    state.SetIterationTime((add_ms + apply_ms - before) / 1000);
  }
  const auto epochs = static_cast<double>(state.iterations());
  state.counters["add_ms"] = add_ms / epochs;
  state.counters["apply_ms"] = apply_ms / epochs;
  per_page(state, 1000);
}

void encode_device_state(benchmark::State& state) {
  std::vector<std::byte> device_state(300'000);
  std::mt19937_64 random(4);
  for (std::byte& octet : device_state) {
    octet = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
  }
  DeviceStateEncoder encoder;
  (void)encoder.encode(EpochId(1), device_state).value();
  std::size_t bytes = 0;
  for (auto _ : state) {
    for (int i = 0; i < 40; ++i) device_state[random() % device_state.size()] ^= std::byte{1};
    bytes = encoder.encode(EpochId(2), device_state).value().size();
  }
  state.counters["record_bytes"] = static_cast<double>(bytes);
}

[[maybe_unused]] const bool registered = [] {
  for (const PageComparer* comparer : available_page_comparers()) {
    benchmark::RegisterBenchmark(("compare/" + std::string(comparer->name)).c_str(), compare_pages,
                                 comparer);
  }
  benchmark::RegisterBenchmark("copy_1000_pages/run", copy_in_pause)
      ->Arg(1)
      ->Arg(8)
      ->Unit(benchmark::kMillisecond);
  const auto encode = [](const char* name, Change change, Mirror::Keep keep) {
    benchmark::RegisterBenchmark(name, encode_pages, change, keep)->Unit(benchmark::kMicrosecond);
  };
  encode("encode/unchanged", Change::none, Mirror::Keep::copies);
  encode("encode/one_line", Change::one_line, Mirror::Keep::copies);
  encode("encode/four_lines", Change::four_lines, Mirror::Keep::copies);
  encode("encode/all_random", Change::all_random, Mirror::Keep::copies);
  encode("encode/all_text", Change::all_text, Mirror::Keep::copies);
  encode("encode/all_zero", Change::all_zero, Mirror::Keep::copies);
  encode("encode/no_mirror_text", Change::all_text, Mirror::Keep::zero_bits);
  const auto receive = [](const char* name, Change change) {
    benchmark::RegisterBenchmark(name, receive_epoch, change)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  };
  receive("receive_1000_pages/four_lines", Change::four_lines);
  receive("receive_1000_pages/all_random", Change::all_random);
  receive("receive_1000_pages/all_text", Change::all_text);
  benchmark::RegisterBenchmark("device_state/300k_40_octets", encode_device_state)
      ->Unit(benchmark::kMicrosecond);
  return true;
}();

}  // namespace
}  // namespace understudy
