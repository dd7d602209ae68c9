#include "checkpoint/changed_lines.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace understudy {
namespace {

alignas(kPageBytes) constexpr std::byte kZeroPage[kPageBytes] = {};

// Portable: words of 64 bits; the compiler vectorises what it may.

std::uint64_t word(const std::byte* at) {
  std::uint64_t value = 0;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

std::uint64_t changed_lines_portable(const std::byte* left, const std::byte* right) {
  std::uint64_t lines = 0;
  for (std::size_t line = 0; line < kLinesPerPage; ++line) {
    std::uint64_t difference = 0;
    for (std::size_t i = 0; i < kLineBytes; i += 8) {
      const std::size_t at = line * kLineBytes + i;
      difference |= word(left + at) ^ word(right + at);
    }
    lines |= std::uint64_t{difference != 0} << line;
  }
  return lines;
}

// All versions of is_zero_page look at one line first: most pages that are not zero show it there.

bool is_zero_page_portable(const std::byte* page) {
  for (std::size_t line = 0; line < kLinesPerPage; ++line) {
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < kLineBytes; i += 8) any |= word(page + line * kLineBytes + i);
    if (any != 0) return false;
  }
  return true;
}

constexpr PageComparer kPortable{"portable", changed_lines_portable, is_zero_page_portable};

#if defined(__x86_64__)

// SSE2 is part of x86-64: no check needed.

__m128i load16(const std::byte* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

std::uint64_t changed_lines_sse2(const std::byte* left, const std::byte* right) {
  std::uint64_t lines = 0;
  for (std::size_t line = 0; line < kLinesPerPage; ++line) {
    const std::byte* a = left + line * kLineBytes;
    const std::byte* b = right + line * kLineBytes;
    const __m128i equal =
        _mm_and_si128(_mm_and_si128(_mm_cmpeq_epi8(load16(a), load16(b)),
                                    _mm_cmpeq_epi8(load16(a + 16), load16(b + 16))),
                      _mm_and_si128(_mm_cmpeq_epi8(load16(a + 32), load16(b + 32)),
                                    _mm_cmpeq_epi8(load16(a + 48), load16(b + 48))));
    lines |= std::uint64_t{_mm_movemask_epi8(equal) != 0xFFFF} << line;
  }
  return lines;
}

bool is_zero_page_sse2(const std::byte* page) {
  for (std::size_t line = 0; line < kLinesPerPage; ++line) {
    const std::byte* a = page + line * kLineBytes;
    const __m128i any = _mm_or_si128(_mm_or_si128(load16(a), load16(a + 16)),
                                     _mm_or_si128(load16(a + 32), load16(a + 48)));
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) != 0xFFFF) return false;
  }
  return true;
}

constexpr PageComparer kSse2{"sse2", changed_lines_sse2, is_zero_page_sse2};

__attribute__((target("avx2"))) __m256i load32(const std::byte* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

__attribute__((target("avx2"))) std::uint64_t changed_lines_avx2(const std::byte* left,
                                                                 const std::byte* right) {
  std::uint64_t lines = 0;
  for (std::size_t line = 0; line < kLinesPerPage; ++line) {
    const std::byte* a = left + line * kLineBytes;
    const std::byte* b = right + line * kLineBytes;
    const __m256i difference = _mm256_or_si256(_mm256_xor_si256(load32(a), load32(b)),
                                               _mm256_xor_si256(load32(a + 32), load32(b + 32)));
    lines |= std::uint64_t{_mm256_testz_si256(difference, difference) == 0} << line;
  }
  return lines;
}

__attribute__((target("avx2"))) bool is_zero_page_avx2(const std::byte* page) {
  for (std::size_t line = 0; line < kLinesPerPage; ++line) {
    const std::byte* a = page + line * kLineBytes;
    const __m256i any = _mm256_or_si256(load32(a), load32(a + 32));
    if (_mm256_testz_si256(any, any) == 0) return false;
  }
  return true;
}

constexpr PageComparer kAvx2{"avx2", changed_lines_avx2, is_zero_page_avx2};

// One register is one line.
__attribute__((target("avx512f"))) std::uint64_t changed_lines_avx512(const std::byte* left,
                                                                      const std::byte* right) {
  std::uint64_t lines = 0;
  for (std::size_t line = 0; line < kLinesPerPage; ++line) {
    const __mmask8 different =
        _mm512_cmpneq_epi64_mask(_mm512_loadu_si512(left + line * kLineBytes),
                                 _mm512_loadu_si512(right + line * kLineBytes));
    lines |= std::uint64_t{different != 0} << line;
  }
  return lines;
}

__attribute__((target("avx512f"))) bool is_zero_page_avx512(const std::byte* page) {
  for (std::size_t line = 0; line < kLinesPerPage; ++line) {
    const __m512i octets = _mm512_loadu_si512(page + line * kLineBytes);
    if (_mm512_test_epi64_mask(octets, octets) != 0) return false;
  }
  return true;
}

constexpr PageComparer kAvx512{"avx512", changed_lines_avx512, is_zero_page_avx512};

#endif

}  // namespace

std::vector<const PageComparer*> available_page_comparers() {
  std::vector<const PageComparer*> comparers{&kPortable};
#if defined(__x86_64__)
  comparers.push_back(&kSse2);
  if (__builtin_cpu_supports("avx2")) comparers.push_back(&kAvx2);
  if (__builtin_cpu_supports("avx512f")) comparers.push_back(&kAvx512);
#endif
  return comparers;
}

const PageComparer& page_comparer() {
  static const PageComparer& best = *available_page_comparers().back();
  return best;
}

const std::byte* zero_page() {
  return kZeroPage;
}

}  // namespace understudy
