# SPDX-License-Identifier: Apache-2.0
# The software CPU. Handlers are named by the opcode table through weak references, so the whole library is linked.
ferry_unit_test(test_soft_mmu "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
ferry_unit_test(test_soft_threads "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
ferry_unit_test(test_soft_code "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
ferry_unit_test(test_soft_int "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
ferry_unit_test(test_soft_simd "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
ferry_unit_test(test_soft_sys "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
ferry_unit_test(test_soft_icount "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
target_sources(test_soft_icount PRIVATE ${CMAKE_CURRENT_LIST_DIR}/unit/icount_guest.S)

# The decoder: by hand, in bulk against the disassembler library Zydis, and with any bytes.
include(${CMAKE_CURRENT_LIST_DIR}/fuzz/ferry_fuzz.cmake)
ferry_unit_test(test_soft_decode ferry_cpu_soft)
find_library(ZYDIS_LIBRARY Zydis)
find_library(ZYCORE_LIBRARY Zycore)
if(ZYDIS_LIBRARY AND ZYCORE_LIBRARY)
  ferry_unit_test(test_soft_zydis ferry_cpu_soft ${ZYDIS_LIBRARY} ${ZYCORE_LIBRARY})
else()
  message(WARNING "libzydis-dev is not installed: test_soft_zydis is left out")
endif()
ferry_fuzz(decode ferry_cpu_soft)

# Streams of instructions on the host's CPU and in the engine: differ --help is its first comment.
set(soft_dir ${CMAKE_CURRENT_LIST_DIR}/soft)
add_executable(differ ${soft_dir}/differ.c ${soft_dir}/gen.c ${soft_dir}/encode.c ${soft_dir}/rows.c ${soft_dir}/compare.c
                      ${soft_dir}/engine.c ${soft_dir}/native.c ${soft_dir}/native_stub.S)
target_include_directories(differ PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_link_libraries(differ PRIVATE "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
set_target_properties(differ PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
if(NOT FERRY_SANITIZE MATCHES "address|thread") # their shadow lies where streams expect nothing
# Class, mode, millions of instructions.
foreach(run "int 64 20" "int 32 4" "simd 64 4" "simd 32 3" "x87 64 3" "x87 32 3")
  separate_arguments(run)
  list(GET run 0 class)
  list(GET run 1 mode)
  list(GET run 2 millions)
  add_test(NAME soft_differ_${class}_${mode}
           COMMAND differ --mode ${mode} --class ${class} --insns ${millions}000000 --seed 1 --quiet --cover)
  set_tests_properties(soft_differ_${class}_${mode} PROPERTIES LABELS soft TIMEOUT 900 SKIP_RETURN_CODE 77)
endforeach()
endif()

ferry_fuzz(softguest "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
ferry_fuzz_loads(softchips "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
ferry_fuzz_loads(softvcpu "$<LINK_LIBRARY:WHOLE_ARCHIVE,ferry_cpu_soft>")
foreach(name softguest softchips softvcpu)
  target_sources(fuzz_${name} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/fuzz/softvm.c)
endforeach()
foreach(name softchips softvcpu)
  target_sources(fuzz_${name} PRIVATE ${CMAKE_CURRENT_LIST_DIR}/fuzz/softstate.c)
endforeach()
