# How a room, a test and a fuzz target are declared: one line each, the same flags for all.

option(UNDERSTUDY_WERROR "Treat warnings as errors" OFF)
set(UNDERSTUDY_SANITIZE "" CACHE STRING "Sanitizers for everything: address (with undefined behaviour), thread, or fuzzer")

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(OpenSSL 3 REQUIRED)

add_library(understudy_flags INTERFACE)
target_include_directories(understudy_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_definitions(understudy_flags INTERFACE
  BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_HAS_CO_AWAIT SPDLOG_FMT_EXTERNAL
  UNDERSTUDY_VERSION="${PROJECT_VERSION}")
target_compile_options(understudy_flags INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wno-missing-field-initializers)
# GCC 12 takes Asio's own pair of operator new and delete for coroutine frames for a mismatch.
target_compile_options(understudy_flags INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-mismatched-new-delete>)
target_link_libraries(understudy_flags INTERFACE Threads::Threads fmt::fmt spdlog::spdlog)
if(UNDERSTUDY_WERROR)
  target_compile_options(understudy_flags INTERFACE -Werror)
endif()
if(UNDERSTUDY_SANITIZE STREQUAL "address")
  target_compile_options(understudy_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  # These double the time that GCC takes for a coroutine. AddressSanitizer sees a null pointer as well,
  # and what parses bytes has all of UBSan in the fuzz targets.
  target_compile_options(understudy_flags INTERFACE -fno-sanitize=null,alignment,vptr)
  target_link_options(understudy_flags INTERFACE -fsanitize=address,undefined)
elseif(UNDERSTUDY_SANITIZE STREQUAL "thread")
  target_compile_options(understudy_flags INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(understudy_flags INTERFACE -fsanitize=thread)
  # GCC 12 warns that ThreadSanitizer does not model atomic_thread_fence, which Asio uses harmlessly.
  target_compile_options(understudy_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
elseif(UNDERSTUDY_SANITIZE STREQUAL "fuzzer")
  target_compile_options(understudy_flags INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined)
  target_link_options(understudy_flags INTERFACE -fsanitize=address,undefined)
endif()

# understudy_room(NAME SOURCES a.cpp b.cpp USES base fmt::fmt): the static library us_NAME.
function(understudy_room name)
  cmake_parse_arguments(arg "" "" "SOURCES;USES" ${ARGN})
  add_library(us_${name} STATIC ${arg_SOURCES})
  target_link_libraries(us_${name} PUBLIC understudy_flags)
  foreach(use IN LISTS arg_USES)
    target_link_libraries(us_${name} PUBLIC ${use})
  endforeach()
endfunction()

# understudy_test(NAME LABELS unit SOURCES x_test.cpp USES us_base [TIMEOUT 60] [ARGS …]): one GoogleTest
# program, one ctest entry. Labels: unit, sim, net, qemu, xen; add `threads` where ThreadSanitizer should look.
function(understudy_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "LABELS;SOURCES;USES;ARGS" ${ARGN})
  if(UNDERSTUDY_SANITIZE STREQUAL "fuzzer")
    return()
  endif()
  find_package(GTest REQUIRED)
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE understudy_flags GTest::gmock GTest::gtest_main ${arg_USES})
  add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT})
  # label_unit, label_net …: the targets that build the programs of one label.
  foreach(label IN LISTS arg_LABELS)
    if(NOT TARGET label_${label})
      add_custom_target(label_${label})
    endif()
    add_dependencies(label_${label} ${name})
  endforeach()
  # Namespaces, taps and guests are shared by the machine: such tests run one at a time.
  if("net" IN_LIST arg_LABELS OR "qemu" IN_LIST arg_LABELS OR "xen" IN_LIST arg_LABELS)
    set_tests_properties(${name} PROPERTIES RESOURCE_LOCK machine)
  endif()
endfunction()

# understudy_fuzz(NAME SOURCES f.cpp USES us_x [CORPUS dir]): a libFuzzer target, built only with
# UNDERSTUDY_SANITIZE=fuzzer (clang), run for some seconds under the label `fuzz`.
function(understudy_fuzz name)
  cmake_parse_arguments(arg "" "CORPUS" "SOURCES;USES" ${ARGN})
  if(NOT UNDERSTUDY_SANITIZE STREQUAL "fuzzer")
    return()
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE understudy_flags ${arg_USES})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
  add_test(NAME ${name} COMMAND ${name} -max_total_time=8 -max_len=65536 -rss_limit_mb=2048 -print_final_stats=0 ${arg_CORPUS})
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
