# SPDX-License-Identifier: Apache-2.0
include_guard(DIRECTORY)
# ferry_fuzz(NAME LINKS...): tests/fuzz/fuzz_NAME.c, a libFuzzer target with its seeds in tests/fuzz/corpus/NAME. With
# FERRY_FUZZ it is a fuzzer (run by tests/fuzz/run.sh), else a program that goes through the seeds and simple
# mutations of them, run by ctest with labels unit and fuzz. The binary is in ${CMAKE_BINARY_DIR}/tests/fuzz.
# ferry_fuzz_loads: of one that loads state and goes on with it (loads.h); tests/fuzz/loads.sh finds it by this name.
function(ferry_fuzz name)
  add_executable(fuzz_${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_${name}.c)
  target_include_directories(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
  target_link_libraries(fuzz_${name} PRIVATE ${ARGN})
  set_target_properties(fuzz_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/fuzz)
  if(FERRY_FUZZ)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/standalone.c)
    add_test(NAME fuzz_${name} COMMAND fuzz_${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
    set_tests_properties(fuzz_${name} PROPERTIES LABELS "unit;fuzz" TIMEOUT 600
      ENVIRONMENT "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/fuzz/tsan.supp")
  endif()
endfunction()

# One of them whose device is a virtio device (virtio.h).
function(ferry_fuzz_virtio name)
  target_sources(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/virtio.c)
  if(FERRY_FUZZ)
    target_sources(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/iothread.c)
  endif()
endfunction()

function(ferry_fuzz_loads name)
  ferry_fuzz(${name} ${ARGN})
  target_sources(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/loads.c)
  if(FERRY_FUZZ)
    target_sources(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/mutate.c)
  endif()
  target_link_libraries(fuzz_${name} PRIVATE ferry_proto)
endfunction()
